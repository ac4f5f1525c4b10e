import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.budget import Budget, parse_budget
from spaces.errors import BadInput


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("5m", Budget(seconds=300)),
        ("1.5h", Budget(seconds=5400)),
        ("2 d", Budget(seconds=172800)),
        ("200trials", Budget(trials=200)),
        ("1 trial", Budget(trials=1)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["0s", "0trials", "-5m", "5", "m", "five minutes", "1.5trials", "", "inf h", "nan s"])
def test_a_budget_of_nothing_or_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="budget"):
        parse_budget(text)


@given(st.text())
def test_any_text_is_a_budget_or_refused(text: str) -> None:
    try:
        budget = parse_budget(text)
    except BadInput:
        return
    assert (budget.seconds or 0) > 0 or (budget.trials or 0) > 0
