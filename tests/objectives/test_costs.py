from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from objectives.abstention import abstention, accuracy_answered, is_abstention
from objectives.accuracy import accuracy_slices
from objectives.cost_matrix import Costs
from objectives.costs import confusion, expected_cost
from objectives.metrics import Metric
from objectives.task import Task
from spaces.sample import Sample

INSPECTION = Costs(classes=("ok", "defect"), matrix=((0, 1), (10, 0)), other=(1, 10), unknown=(2, 2))


def task(costs: Costs | None = INSPECTION) -> Task:
    return Task(
        path=Path("task.yaml"),
        name="t",
        metric=Metric("exact"),
        slices=(),
        splits={},
        max_new_tokens=4,
        hints={},
        columns={},
        unknown=("unknown", "I don't know"),
        costs=costs,
    )


def rows(*answers: str | tuple[str, ...], kind: str = "part") -> list[Sample]:
    return [
        Sample(
            id=str(number),
            image=Path("x"),
            question="?",
            answers=(text,) if isinstance(text, str) else text,
            fields={"kind": kind},
        )
        for number, text in enumerate(answers)
    ]


def test_hand_worked_costs() -> None:
    samples = rows("ok", "ok", "defect", "defect", "defect", ("ok", "fine"), "ok")
    answers = ["OK.", "defect", "ok", "a crack", "dont know", "fine", "I don't know"]
    answers[4] = "Unknown"
    figure = expected_cost(answers, samples, task())
    assert figure.value == pytest.approx((0 + 1 + 10 + 10 + 2 + 0 + 2) / 7)
    assert figure.n == 7
    assert confusion(answers, samples, task()) == {
        "ok": {"ok": 2, "defect": 1, "(other)": 0, "(unknown)": 1},
        "defect": {"ok": 1, "defect": 0, "(other)": 1, "(unknown)": 1},
    }


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=60))
def test_the_mean_is_the_table_times_the_matrix(pairs: list[tuple[int, int]]) -> None:
    matrix = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], dtype=float)
    table = np.zeros((3, 5))
    np.add.at(table, tuple(np.array(pairs).T), 1)
    costs = Costs(
        classes=("a b", "c", "d"), matrix=tuple(map(tuple, matrix)), other=(7, 8, 9), unknown=(0.5, 0.25, 0.125)
    )
    texts = ("A-b", "C", "d!", "zzz", "unknown")
    samples = rows(*[costs.classes[truth] for truth, _ in pairs])
    answers = [texts[answer] for _, answer in pairs]
    whole = np.hstack([matrix, np.array([[7, 8, 9], [0.5, 0.25, 0.125]]).T])
    figure = expected_cost(answers, samples, task(costs))
    assert figure.value == pytest.approx((table * whole).sum() / table.sum())
    assert figure.low is not None
    assert figure.high is not None
    assert 0 <= figure.low <= float(figure.value or 0) <= figure.high <= 9
    found = confusion(answers, samples, task(costs))
    np.testing.assert_array_equal([list(line.values()) for line in found.values()], table)


@pytest.mark.parametrize("misses", [0, 1, 7, 40])
def test_with_one_kind_of_error_the_interval_is_wilsons(misses: int) -> None:
    figure = expected_cost(["ok"] * misses + ["defect"] * (40 - misses), rows(*["defect"] * 40), task())
    low, high = stats.binomtest(misses, 40).proportion_ci(method="wilson")
    assert [figure.low, figure.high] == pytest.approx([10 * low, 10 * high])


def test_the_interval_covers_where_students_does_not() -> None:
    """4000 sets of 60 rows with 5 % false alarms at 1 and 2 % misses at 10: the mean cost is 0.25."""
    rng = np.random.default_rng(0)
    drawn = rng.choice([0.0, 1.0, 10.0], p=[0.93, 0.05, 0.02], size=(4000, 60))
    truths = np.where(drawn == 10, "defect", "ok")
    covered = []
    for costs, truth in zip(drawn[:500], truths, strict=False):
        figure = expected_cost(["defect" if cost == 1 else "ok" for cost in costs], rows(*truth.tolist()), task())
        assert figure.value == pytest.approx(costs.mean())
        assert figure.low is not None
        assert figure.high is not None
        covered.append(figure.low <= 0.25 <= figure.high)
    half = stats.t.ppf(0.975, 59) * drawn.std(axis=1, ddof=1) / np.sqrt(60)
    students = np.mean(np.abs(drawn.mean(axis=1) - 0.25) <= half)
    assert np.mean(covered) >= 0.94
    assert students < 0.75


def test_only_rows_that_where_names_are_judged() -> None:
    costs = Costs(
        classes=("ok", "defect"), matrix=((0, 1), (10, 0)), other=(1, 10), unknown=(1, 10), where={"kind": ("part",)}
    )
    samples = [*rows("defect"), *rows("blue", kind="colour")]
    assert expected_cost(["ok", "red"], samples, task(costs)).value == 10
    assert expected_cost(["red"], samples[1:], task(costs)).value is None
    free = Costs(classes=("a", "b"), matrix=((0, 0), (0, 0)), other=(0, 0), unknown=(0, 0))
    assert expected_cost(["b"], rows("a"), task(free)).high == 0
    with pytest.raises(ValueError, match="no costs"):
        expected_cost([], [], task(None))
    with pytest.raises(ValueError, match="none of"):
        expected_cost(["red"], rows("blue"), task())


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Unknown.", ("red",), True),
        ("i dont know", ("red",), True),
        ("unknown", ("unknown",), False),
        ("UNKNOWN", ("red", "unknown"), False),
        ("unknown colour", ("red",), False),
        ("red", ("blue",), False),
    ],
)
def test_abstention_of_one_answer(answer: str, references: tuple[str, ...], expected: bool) -> None:
    assert is_abstention(answer, rows(references)[0], task().unknown) is expected


def test_abstention_and_accuracy_of_the_rest() -> None:
    samples = rows("red", "red", "unknown", "blue", "blue")
    answers = ["unknown", "red", "unknown", "red", "I dont know"]
    share = abstention(answers, samples, task())
    low, high = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert (share.value, share.n) == (0.4, 5)
    assert [share.low, share.high] == pytest.approx([low, high])
    rest = accuracy_answered(answers, samples, task())
    assert rest.value == pytest.approx(2 / 3)
    assert rest.n == 3
    assert accuracy_answered(["unknown"], rows("red"), task()).value is None


def test_slices_by_the_canonical_answer() -> None:
    samples = rows(("red", "crimson"), "blue", "red")
    found: Mapping[str, float | None] = {
        name: figure.value for name, figure in accuracy_slices(samples, [1, 0, 0], ["answer"])["answer"].items()
    }
    assert found == {"blue": 0, "red": 0.5}
