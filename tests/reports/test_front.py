import json
from typing import Any

import numpy as np
import pytest

from objectives.accuracy import paired_difference
from objectives.pareto import nondominated
from objectives.trial import Figure, Trial
from reports.front import as_values, front, front_as_dict, objectives_by_name
from spaces.errors import BadInput


def trial(number: int, accuracy: float | None, ms: float | None, half: float = 0.0, **changed: Any) -> Trial:
    def figure(value: float | None, spread: float) -> Figure:
        return (
            Figure(value=value)
            if value is None
            else Figure(value=value, low=value - spread, high=value + spread, n=100)
        )

    figures = {"accuracy": figure(accuracy, half), "latency_p50_ms": figure(ms, 0.0)}
    known: dict[str, Any] = {"candidate_id": str(number), "candidate": {"model.path": "n"}, "state": "complete"}
    return Trial(number=number, figures=figures, **{**known, **changed})


def numbers(found: Any) -> list[int]:
    return [member.trial.number for member in found.members]


def test_members_from_the_most_accurate_to_the_fastest() -> None:
    found = front([trial(0, 0.7, 5), trial(1, 0.9, 20), trial(2, 0.8, 10), trial(3, 0.75, 12)])
    assert numbers(found) == [1, 2, 0]
    assert [t.number for t in found.dominated] == [3]
    assert [member.probability for member in found.members] == [1, 1, 1]
    assert found.probabilities[3] == 0


def test_differences_below_the_floor_make_no_member() -> None:
    """0.905 at 20 ms against 0.900 at 10 ms: as accurate within 1 point, and slower."""
    trials = [trial(0, 0.905, 20), trial(1, 0.9, 10), trial(2, 0.7, 5)]
    assert numbers(front(trials, floors={"accuracy": 0.01})) == [1, 2]
    assert numbers(front(trials, floors={"accuracy": 0.001})) == [0, 1, 2]
    trials = [trial(0, 0.9, 10.3), trial(1, 0.8, 10.0)]
    assert numbers(front(trials, floors={"latency_p50_ms": 0.05})) == [0]
    assert numbers(front(trials, floors={"latency_p50_ms": 0.01})) == [0, 1]


def test_the_floor_is_the_median_half_width_on_the_front() -> None:
    on = [trial(0, 0.9, 20, half=0.02), trial(1, 0.6, 10, half=0.04), trial(2, 0.5, 5, half=0.03)]
    off = [trial(number, 0.1, 50, half=0.5) for number in range(3, 9)]
    found = front(on + off)
    assert found.floors["accuracy"] == pytest.approx(0.03)
    assert found.floors["latency_p50_ms"] == pytest.approx(0.01)


def test_a_front_of_one_takes_its_floor_from_all_trials() -> None:
    assert front([trial(0, 0.9, 5, half=0.4), trial(1, 0.6, 10, half=0.02), trial(2, 0.5, 20, half=0.03)]).floors[
        "accuracy"
    ] == pytest.approx(0.03)


def test_the_floor_of_accuracy_comes_from_paired_differences() -> None:
    """Three trials that differ in few items: their differences are known better than each figure by itself."""
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    scores = {n: {str(i): float(e < p) for i, e in enumerate(easy)} for n, p in ((0, 0.5), (1, 0.8), (2, 0.7))}
    trials = [trial(n, sum(scores[n].values()) / 400, ms, half=0.045) for n, ms in ((0, 5), (1, 20), (2, 10))]
    trials.append(trial(9, 0.3, 50, half=0.045))
    widths = []
    for first, second in ((2, 0), (1, 2)):
        figure = paired_difference(scores[first], scores[second])
        assert figure.low is not None
        assert figure.high is not None
        widths.append((figure.high - figure.low) / 2)
    found = front(trials, scores=scores.__getitem__)
    assert found.floors["accuracy"] == pytest.approx(sum(widths) / 2)
    assert found.floors["accuracy"] < 0.04
    assert found.floors["latency_p50_ms"] == front(trials).floors["latency_p50_ms"]
    assert front(trials, floors={"accuracy": 0.2}, scores=scores.__getitem__).floors["accuracy"] == 0.2
    assert front(trials, scores=lambda _: {}).floors == front(trials).floors
    assert front(trials[:1], scores=scores.__getitem__).floors == front(trials[:1]).floors


@pytest.mark.parametrize(
    "absent",
    [
        trial(9, None, 1),
        trial(9, 1.0, None),
        trial(9, 1.0, 1, state="failed"),
        trial(9, 1.0, 1, state="infeasible"),
        trial(9, 1.0, 1, state="running"),
        trial(9, 1.0, 0.0),
    ],
)
def test_only_complete_and_measured_trials_count(absent: Trial) -> None:
    found = front([absent, trial(1, 0.5, 10)])
    assert numbers(found) == [1]
    assert found.dominated == ()


def test_equal_trials_leave_the_first() -> None:
    assert numbers(front([trial(5, 0.9, 10), trial(2, 0.9, 10)])) == [2]


def test_no_trials() -> None:
    assert front([]).members == ()


def test_unknown_objective() -> None:
    with pytest.raises(BadInput, match="did you mean latency_p50_ms"):
        front([], ["accuracy", "latency_p50ms"])


def test_front_of_a_run_is_covered_and_its_members_differ(trials: list[Trial]) -> None:
    found = front(trials)
    complete = [*found.trials, *found.dominated]
    assert len(complete) == sum(trial.state == "complete" for trial in trials)
    chosen = objectives_by_name(["accuracy", "latency_p50_ms"])
    values, members = as_values(complete, chosen), as_values(found.trials, chosen)
    epsilon = np.array([found.floors["accuracy"], np.log1p(found.floors["latency_p50_ms"])])
    for value in values:
        assert np.any(np.all(members <= value + epsilon + 1e-12, axis=1))
    assert nondominated(members).all()
    assert np.diff(members[:, 0]).min() > epsilon[0]
    assert np.diff(members[:, 1]).max() < -epsilon[1]


def test_three_objectives(trials: list[Trial]) -> None:
    names = ["accuracy", "latency_p50_ms", "size_mb"]
    found = front(trials, names, floors={"accuracy": 0.0, "latency_p50_ms": 0.0, "size_mb": 0.0})
    complete = sorted([*found.trials, *found.dominated], key=lambda trial: trial.number)
    expected = nondominated(as_values(complete, objectives_by_name(names)))
    assert {t.number for t in found.trials} == {t.number for t, on in zip(complete, expected, strict=True) if on}


def test_as_dict_is_json(trials: list[Trial]) -> None:
    found = front_as_dict(front(trials))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    first = found["members"][0]
    assert {"trial", "candidate", "figures", "slices", "membership_probability"} <= first.keys()


def test_a_front_that_noise_makes_doubtful_says_so() -> None:
    from reports.text import NOISY, doubts

    for floor, warned in ((NOISY - 0.01, False), (NOISY + 0.01, True)):
        found = front([trial(1, 0.9, 5.0), trial(2, 0.5, 1.0)], floors={"latency_p50_ms": floor})
        assert bool(doubts(found)) == warned
