import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.candidate import Candidate
from spaces.canonical import canonical_json, digest

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


@given(TREES)
def test_canonical_json_reads_back_as_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), VALUES, min_size=2, max_size=6))
def test_the_order_of_keys_does_not_change_the_digest(value: dict[str, Any]) -> None:
    shuffled = dict(reversed(value.items()))
    assert digest(value) == digest(shuffled)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_its_integer(number: int) -> None:
    assert canonical_json(float(number)) == canonical_json(number)


def test_a_known_digest_stays_as_it_is() -> None:
    # sha256 of the text {"a":[1,true,"é"],"b":0.5}, worked out with sha256sum
    assert canonical_json({"b": 0.5, "a": [1.0, True, "é"]}) == '{"a":[1,true,"é"],"b":0.5}'
    assert digest({"b": 0.5, "a": [1.0, True, "é"]}) == KNOWN


KNOWN = "d574414b0564d097a681ee4b96b27b34beabf11f51a8212c5d94f4f761bf6724"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_what_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


def test_keys_must_be_text() -> None:
    with pytest.raises(TypeError):
        canonical_json({1: "a"})


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=5))
def test_a_candidate_is_known_by_its_values_alone(values: dict[str, Any]) -> None:
    assert Candidate(values).id == Candidate(dict(reversed(values.items()))).id
    assert Candidate(values).id != Candidate({**values, "one more": "knob"}).id


def test_a_candidate_cannot_be_changed() -> None:
    values = {"a.b": 1}
    candidate = Candidate(values)
    values["a.b"] = 2
    assert candidate.values["a.b"] == 1
    with pytest.raises(TypeError):
        candidate.values["a.b"] = 2  # type: ignore[index]
