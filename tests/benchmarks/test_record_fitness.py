import math

import numpy as np
import pytest

from record.fitness import effect, fitness
from record.latency import pooled, repeatability
from record.pooling import Member, pools

CODES = {  # bits x (method with steps under it)
    "bits": np.array([0, 1, 0, 1, 0, 1, 0], dtype=np.int16),
    "method": np.array([0, 0, 1, 1, 1, 1, 0], dtype=np.int16),
    "steps": np.array([-1, -1, 0, 0, 1, 1, -1], dtype=np.int16),
}
ACCURACY = np.array([0.50, 0.48, 0.80, 0.80, 0.90, 0.86, 0.1])
SIZE = np.array([8.0, 4.0, 8.0, 4.0, 8.0, 4.0, 1.0])
LARGER = np.array([True] * 6 + [False])
ALL = np.ones(7, dtype=bool)
UNDER = {"bits": set[str](), "method": {"steps"}, "steps": set[str]()}


def test_an_effect_is_the_median_difference_with_all_else_equal() -> None:
    # by hand: bits: -0.02, 0.00, -0.04; method, at the first steps: 0.30, 0.32; steps: 0.10, 0.06
    assert effect(CODES, "bits", (), ACCURACY, LARGER) == pytest.approx(-0.02)
    assert effect(CODES, "method", {"steps"}, ACCURACY, LARGER) == pytest.approx(0.31)
    assert effect(CODES, "steps", (), ACCURACY, LARGER) == pytest.approx(0.08)
    assert effect(CODES, "steps", (), ACCURACY, ~LARGER) is None


def test_of_several_values_the_two_that_differ_most_count() -> None:
    codes = {"keep": np.array([0, 1, 2], dtype=np.int16)}
    assert effect(codes, "keep", (), np.array([1.0, 5.0, 2.0]), np.ones(3, dtype=bool)) == 4.0
    assert effect(codes, "keep", (), np.array([1.0, -9.0, 2.0]), np.ones(3, dtype=bool)) == 11.0


def test_an_unknown_value_is_left_out() -> None:
    values = ACCURACY.copy()
    values[5] = np.nan
    assert effect(CODES, "bits", (), values, LARGER) == pytest.approx(-0.01)


def test_a_table_is_fit_where_each_knob_moves_its_objective_by_over_five_floors() -> None:
    hints: dict[str, dict[str, bool | str]] = {
        "bits": {"ordered": True, "accuracy": "down", "size": "down"},
        "method": {"ordered": True, "accuracy": "up"},
        "steps": {"ordered": True, "accuracy": "down"},
    }
    values, floors = {"accuracy": ACCURACY, "size": SIZE}, {"accuracy": 0.005, "size": 0.1}
    found = fitness(CODES, UNDER, values, floors, ("size",), hints, LARGER)
    assert found["knobs"]["bits"]["accuracy"] == {"change": -0.02, "floors": 4.0, "fit": False}
    times = math.log(2) / math.log(1.1)
    assert found["knobs"]["bits"]["size"] == {"change": -0.5, "floors": round(times, 1), "fit": True}
    assert found["knobs"]["method"]["accuracy"]["floors"] == pytest.approx(62.0)
    assert (found["fit"], found["below"], found["against"]) == (False, ["bits: accuracy"], ["steps: accuracy"])


def test_two_medians_of_as_many_processes_differ_by_less_than_the_floor_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(2, 30, size=(4000, 1))
    for n in (3, 5, 8):
        samples = centre * np.exp(0.03 * rng.standard_normal((4000, n)))
        floor = repeatability([row.tolist() for row in samples])
        again = centre * np.exp(0.03 * rng.standard_normal((4000, n)))
        ratio = np.abs(np.log(np.median(samples, axis=1) / np.median(again, axis=1)))
        assert floor is not None
        assert 0.94 < np.mean(ratio <= np.log1p(floor)) < 0.985


def test_how_well_a_latency_repeats_is_not_known_from_one_pass() -> None:
    assert repeatability([[5.0], [6.0]]) is None
    assert repeatability([[5.0, 5.0], [6.0]]) == 0.01


def test_disturbed_measurements_count_only_where_there_are_no_others() -> None:
    good = {"p50_ms": 5.0, "disturbed": False, "retried": False, "seconds": 1.5, "reason": ""}
    again = good | {"p50_ms": 6.0, "retried": True, "seconds": 3.0}
    bad = {"p50_ms": 9.0, "disturbed": True, "retried": True, "seconds": 4.5, "reason": "busy"}
    failed = {"p50_ms": None, "fault": "OOM", "reason": "OOM: too large"}
    noisy = {"p50_ms": None, "fault": "INVALID_NOISE", "reason": "INVALID_NOISE: it slept"}
    assert (pooled([good, bad]).samples, pooled([good, bad]).seconds) == ((5.0,), (1.5,))
    assert (pooled([again, good]).samples, pooled([again, good]).seconds) == ((6.0, 5.0), (1.5,))
    assert (pooled([bad, bad]).samples, pooled([again]).seconds) == ((9.0, 9.0), (3.0,))
    assert (pooled([failed, noisy]).fault, pooled([failed, good]).fault) == ("OOM: too large", "")
    assert pooled([noisy]).fault == ""


def test_candidates_are_pooled_by_graph_and_by_lengths_that_are_about_equal() -> None:
    def one(name: str, graph: str, text: float, answer: float) -> Member:
        return Member(candidate=name, graph=graph, text=text, answer=answer)

    members = [
        one("plain", "g", 7.4, 2.6),
        one("template", "g", 13.4, 2.6),
        one("hint", "g", 15.2, 2.5),
        one("wordy", "g", 7.4, 3.1),
        one("tuned", "g", 7.4, 2.5),
        one("other", "h", 7.4, 2.6),
    ]
    assert sorted(pools(members)) == [("other",), ("plain", "tuned"), ("template", "hint"), ("wordy",)]
