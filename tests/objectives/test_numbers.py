from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.metrics import Metric
from objectives.numbers import first_number, numeric
from spaces.sample import Sample


def sample(*answers: str) -> Sample:
    return Sample(id="i", image=Path("x.png"), question="?", answers=answers)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", "3"),
        ("about 3.5 bar", "3.5"),
        ("3.5bar", "3.5"),
        ("-5 °C", "-5"),
        ("−5", "-5"),
        ("+7", "7"),
        ("valve A-5", "5"),
        ("2-3", "2"),
        ("1,000", "1000"),
        ("1,234,567.25 €", "1234567.25"),
        ("12\u00a0345", "12345"),
        ("12'345", "12345"),
        ("3,5", "3.5"),
        ("0,500", "0.500"),
        ("1.000,5", "1000.5"),
        ("1.234.567,25 €", "1234567.25"),
        ("-1.234,567", "-1234.567"),
        ("0.500,5", "0.500"),
        ("1,000,5", "1"),
        ("1.000", "1"),
        ("10, 20", "10"),
        ("2026,11,20", "2026"),
        (".5", "0.5"),
        ("it is 7.", "7"),
        ("1.2.3", "1.2"),
        ("1e-3 m", "0.001"),
        ("2e", "2"),
        ("e5", "5"),
        ("50%", "50"),
        ("№ 12", "12"),
        ("٣", "3"),
        ("5e999 and", "5e999"),
    ],
)
def test_first_number(text: str, number: str) -> None:
    assert first_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "-", ".", "three"])
def test_no_number(text: str) -> None:
    assert first_number(text) is None
    assert numeric(text, sample("3")) == 0.0


@given(st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-4), st.sampled_from(["", " V", "mm."]))
def test_it_reads_what_python_writes(value: float, unit: str) -> None:
    assert float(first_number(f"{value}{unit}") or 0) == value
    assert float(first_number(f"it is {value:,.3f} now") or 0) == pytest.approx(round(value, 3), abs=1e-12)


@given(st.text())
def test_any_text_is_scored(text: str) -> None:
    assert numeric(text, sample("3", text)) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "settings", "expected"),
    [
        ("0.35", {"tolerance": 0.05}, 1.0),
        ("0.351", {"tolerance": 0.05}, 0.0),
        ("0.25 bar", {"tolerance": 0.05}, 1.0),
        ("0.3000", {}, 1.0),
        ("0.30001", {}, 0.0),
        ("0.33", {"relative": 0.1}, 1.0),
        ("0.34", {"relative": 0.1}, 0.0),
        ("0.34", {"relative": 0.1, "tolerance": 0.04}, 1.0),
        ("-0.3", {"relative": 0.1}, 0.0),
    ],
)
def test_tolerances_include_their_bounds(answer: str, settings: dict[str, float], expected: float) -> None:
    assert Metric("numeric", settings)(answer, sample("0.3 bar")) == expected


def test_any_reference_counts() -> None:
    assert numeric("7", sample("none", "7")) == 1.0
    assert not Metric("numeric").takes(sample("none"))
    assert Metric("numeric").takes(sample("none", "7"))
    assert Metric("exact").takes(sample("none"))
