from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.metrics import METRICS, Metric, commonest_answers, contains, exact
from objectives.normal import normalise
from spaces.sample import Sample


def sample(question: str, answer: str, kind: str = "k") -> Sample:
    return Sample(id="i", image=Path("x.png"), question=question, answers=(answer,), fields={"kind": kind})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  In the RED zone. ", "in red zone"),
        ("red-zone", "red zone"),
        ("don't", "dont"),
        ("1,000 bolts", "1000 bolts"),
        ("2,5", "2 5"),
        ("3.5", "3.5"),
        ("-5 °", "-5 °"),
        ("end. Next", "end next"),
        ("a", "a"),
        ("The A", "the a"),
        ("50 %", "50 %"),
        ("ＦＵＬＬ", "full"),
        ("", ""),
        ("!?", "!?"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(max_size=30))
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_exact_takes_any_reference() -> None:
    two = Sample(id="i", image=Path("x"), question="q", answers=("red", "crimson"))
    assert exact("The Crimson.", two) == 1.0
    assert exact("blue", two) == 0.0
    assert exact("", two) == 0.0
    assert METRICS["exact"] is exact


def test_commonest_answer_by_kind_and_by_question() -> None:
    seen = [sample("q1", "up", "a")] * 3 + [sample("q2", "red", "b")] * 2 + [sample("q3", "one", "c")]
    asked = [sample("q2", "?", "a"), sample("q3", "?", "b"), sample("new", "?", "c")]
    assert commonest_answers(seen, asked, "kind") == ("up", "red", "up")
    assert commonest_answers(seen, asked) == ("red", "up", "up")
    with pytest.raises(ValueError):
        commonest_answers([], asked)


def test_ties_do_not_depend_on_the_order() -> None:
    rows = [sample("q", "b"), sample("q", "a")]
    assert commonest_answers(rows, rows[:1]) == commonest_answers(rows[::-1], rows[:1]) == ("a",)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12))
def test_no_constant_does_better(answers: list[str]) -> None:
    rows = [sample("q", answer) for answer in answers]
    guess = commonest_answers(rows, rows)
    assert sum(map(str.__eq__, guess, answers)) == max(answers.count(answer) for answer in answers)


@pytest.mark.parametrize(
    ("left", "right"), [(">", "<"), ("+", "-"), ("C++", "C#"), ("10 €", "10 $"), ("±5", "5"), ("", "?"), ("कि", "का")]
)
def test_different_symbols_are_different_answers(left: str, right: str) -> None:
    assert normalise(left) != normalise(right)


def test_the_commonest_answer_counts_spellings_as_one() -> None:
    answers = ["Open", "open", "OPEN", "shut", "shut"]
    rows = [Sample(id=str(i), image=Path("x"), question="?", answers=(text,)) for i, text in enumerate(answers)]
    assert set(commonest_answers(rows, rows)) == {"open"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("it is the Red zone", 1.0),
        ("red.", 1.0),
        ("redder", 0.0),
        ("a crimson, deep one", 1.0),
        ("", 0.0),
        ("re d", 0.0),
    ],
)
def test_contains_whole_words(answer: str, expected: float) -> None:
    two = Sample(id="i", image=Path("x"), question="q", answers=("red", "deep crimson", "crimson, deep"))
    assert contains(answer, two) == expected


def test_every_metric_is_a_share_and_credits_the_reference() -> None:
    right = Sample(id="i", image=Path("x"), question="q", answers=("3.5 bar",))
    for name in METRICS:
        assert Metric(name)("3.5 bar", right) == 1.0
        assert Metric(name)("blue", right) == 0.0
        assert Metric(name).spec == name
    assert Metric("numeric", {"tolerance": 0.5}).spec == {"name": "numeric", "tolerance": 0.5}
