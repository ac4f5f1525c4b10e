from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.anls import anls, levenshtein
from spaces.sample import Sample

words = st.text(alphabet="abc", max_size=7)


def sample(*answers: str) -> Sample:
    return Sample(id="i", image=Path("x.png"), question="?", answers=answers)


def distance(first: str, second: str) -> int:
    """The definition, by recursion on prefixes."""

    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (first[i - 1] != second[j - 1]))

    return of(len(first), len(second))


@given(words, words)
def test_levenshtein_is_the_definition(first: str, second: str) -> None:
    assert levenshtein(first, second) == distance(first, second)


def test_known_distances() -> None:
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("intention", "execution") == 5


@given(words, st.lists(words.filter(bool), min_size=1, max_size=3))
def test_the_best_reference_counts_below_the_threshold(answer: str, references: list[str]) -> None:
    shares = [distance(answer, text) / max(len(answer), len(text)) for text in references]
    expected = max(1 - share if share < 0.5 else 0.0 for share in shares)
    assert anls(answer, sample(*references)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Coca Cola", ("coca cola",), 1.0),
        ("coca  cola ", ("coca cola",), 1.0),
        ("coke", ("coca cola company",), 0.0),
        ("cocacola", ("coca cola",), 8 / 9),
        ("helo", ("hello",), 0.8),
        ("ab", ("ac",), 0.0),  # NL is 0.5, which the paper does not credit
        ("abc", ("abd",), 2 / 3),
        ("", ("x",), 0.0),
        ("stop", ("halt", "stopp"), 0.8),
    ],
)
def test_hand_worked(answer: str, references: tuple[str, ...], expected: float) -> None:
    assert anls(answer, sample(*references)) == pytest.approx(expected)
