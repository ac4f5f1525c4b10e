from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.vqa import process, vqa_soft
from spaces.sample import Sample


def sample(*answers: str) -> Sample:
    return Sample(id="i", image=Path("x.png"), question="?", answers=answers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("the red bus", "red bus"),
        ("a", ""),
        ("dont know", "don't know"),
        ("don't", "don't"),
        ("don’t", "don't"),
        ("couldntve", "couldn't've"),
        ("theyre", "they're"),
        ("theyd've", "they'd've"),
        ("Im", "i'm"),
        ("girl's", "girl's"),
        ("its", "its"),
        ("well, hell, were", "well hell were"),
        ("we'll", "we'll"),
        ("she'd", "she'd"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("semi-truck", "semi truck"),
        ("what?!", "what"),
        (" on\ta\nshelf ", "on shelf"),
    ],
)
def test_process_follows_the_published_rules(text: str, expected: str) -> None:
    assert process(text) == expected


@given(st.text(max_size=40))
def test_spaces_and_case_never_count(text: str) -> None:
    assert process(f"  {text.lower()} ") == process(text.lower())
    assert "  " not in process(text)


@pytest.mark.parametrize(("people", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_answers_give_the_known_steps(people: int, expected: float) -> None:
    assert vqa_soft("two", sample(*["2"] * people, *["red"] * (10 - people))) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["red", "blue", "2", "Two"]), min_size=2, max_size=10), st.sampled_from(["red", "two"]))
def test_it_is_the_mean_over_all_sets_with_one_left_out(answers: list[str], answer: str) -> None:
    """Brute force over the ten choices of nine people, as the evaluation page describes it."""
    plain = {"red": "red", "blue": "blue", "2": "2", "Two": "2", "two": "2"}
    votes = [plain[one] == plain[answer] for one in answers]
    sets = [min(sum(chosen) / 3, 1.0) for chosen in combinations(votes, len(votes) - 1)]
    assert vqa_soft(answer, sample(*answers)) == pytest.approx(sum(sets) / len(sets))


def test_few_answers() -> None:
    assert vqa_soft("The cat.", sample("cat")) == 1.0
    assert vqa_soft("dog", sample("cat")) == 0.0
    assert vqa_soft("cat", sample("cat", "cat", "cat")) == pytest.approx(2 / 3)
