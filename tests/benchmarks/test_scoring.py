from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from replay.analytic import analytic
from replay.charging import RULES, Ledger, Rule
from replay.scoring import LEVELS, Curve, Score
from replay.synthetic import VARIANTS, family
from replay.table import Table
from spaces.errors import BadInput
from tests.benchmarks.six_rows import six

TABLES = {"family": lambda: family(1, items=100), "dtlz2": lambda: analytic("dtlz2", 1), "six": six}


def plain_scaled(table: Table) -> Any:
    """Scaled by hand, one candidate and objective at a time: 1 at the reference, 0 at the best better than it."""
    worth: dict[int, list[float]] = {}
    for row in np.flatnonzero(table.ok):
        gains = []
        for k, (name, way) in enumerate(table.objectives.items()):
            value, worst = table.values[row, k], table.reference[name]
            if name in ("latency_ms", "size_mb"):
                gains.append(np.log(worst / value))
            else:
                gains.append(value - worst if way == "max" else worst - value)
        if min(gains) > 0:
            worth[int(row)] = gains
    most = np.max(list(worth.values()), axis=0)
    return {row: 1 - np.array(gains) / most for row, gains in worth.items()}


@pytest.mark.parametrize("name", TABLES)
def test_the_front_is_what_epsilon_dominance_at_the_floor_leaves(name: str) -> None:
    table = TABLES[name]()
    score = Score(table)
    scaled = plain_scaled(table)
    for row, point in scaled.items():
        np.testing.assert_allclose(score.scaled[row], point, atol=1e-9)
    assert set(score.front.tolist()) <= scaled.keys()
    # Within the floor of every candidate, in the objectives' own units, lies a member of the front.
    for row in scaled:
        matched = np.ones(len(score.front), dtype=bool)
        for k, (objective, way) in enumerate(table.objectives.items()):
            values, mine, floor = table.values[score.front, k], table.values[row, k], table.floor[objective]
            if objective in ("latency_ms", "size_mb"):
                matched &= values <= mine * (1 + floor) * (1 + 1e-12)
            else:
                matched &= (mine - values if way == "max" else values - mine) <= floor + 1e-12
        assert matched.any()


@pytest.mark.parametrize("name", TABLES)
def test_hypervolume_agrees_with_another_library_and_with_darts(name: str) -> None:
    table = TABLES[name]()
    score = Score(table)
    scaled = plain_scaled(table)
    rng = np.random.default_rng(0)
    rows = rng.choice(list(scaled), size=min(len(scaled), 12), replace=False)
    points, front = (np.stack([scaled[row] for row in which]) for which in (rows, score.front.tolist()))
    one = np.ones(points.shape[1])
    library = compute_hypervolume(points, one) / compute_hypervolume(front, one)
    assert score.relative(rows) == pytest.approx(min(1.0, library), rel=1e-9)
    darts = rng.random((40_000, points.shape[1]))
    hit, hit_front = (
        np.any(np.all(points_[None] <= darts[:, None], axis=2), axis=1).mean() for points_ in (points, front)
    )
    assert score.relative(rows) == pytest.approx(hit / hit_front, abs=0.02)


def test_the_whole_front_is_worth_one_and_nothing_nothing() -> None:
    table = family(2, items=100)
    score = Score(table)
    assert score.relative(score.front) == 1.0
    assert score.relative(np.flatnonzero(table.ok)) == pytest.approx(1.0)
    assert score.relative([]) == 0.0
    assert score.relative(score.front[:-1]) < 1.0


def test_renaming_changes_no_score() -> None:
    table = family(2, items=100)
    other = table.renamed(9)
    mine, theirs = Score(table), Score(other)
    points = sorted(map(tuple, table.values[mine.front].tolist()))
    assert sorted(map(tuple, other.values[theirs.front].tolist())) == points
    for rule in RULES:
        assert theirs.oracle(other, rule, 0.95) == pytest.approx(mine.oracle(table, rule, 0.95))


def test_cost_to_a_level_is_the_first_that_counts() -> None:
    curve = Curve(np.array([5.0, 9.0, 20.0]), np.array([0.5, 0.93, 1.0]), cap=15.0)
    assert (curve.cost_to(0.5).cost, curve.cost_to(0.9).cost) == (5.0, 9.0)
    assert not curve.cost_to(0.9).at_least
    assert (curve.cost_to(0.95).cost, curve.cost_to(0.95).at_least) == (15.0, True)


def cheapest(table: Table, score: Score, rule: Rule, level: float) -> float:
    """The least cost of any subset of the front that reaches the level: all are tried."""
    least = np.inf
    for size in range(1, len(score.front) + 1):
        for rows in combinations(score.front.tolist(), size):
            ledger = Ledger(table, rule)
            cost = sum(ledger.trial(row) for row in rows)
            if cost < least and score.relative(rows) >= level:
                least = cost
    return float(least)


def test_the_oracle_is_near_the_cheapest_subset_and_never_below() -> None:
    rng = np.random.default_rng(0)
    found, exact = [], []
    for seed, name in enumerate(sorted(VARIANTS)):
        whole = family(seed, VARIANTS[name], items=32)
        front = Score(whole).front
        for rule in RULES:
            chosen = rng.choice(front, size=7, replace=False)
            table = replace(whole, state=np.where(np.isin(np.arange(len(whole)), chosen), "ok", "failed"))
            score = Score(table)
            found += [score.oracle(table, rule, level) for level in LEVELS]
            exact += [cheapest(table, score, rule, level) for level in LEVELS]
    ratio = np.array(found) / np.array(exact)
    assert ratio.min() >= 1 - 1e-9
    assert ratio.mean() <= 1.05
    assert np.mean(ratio < 1 + 1e-9) >= 0.7


def test_a_reference_that_nothing_beats_is_refused() -> None:
    with pytest.raises(BadInput, match="reference"):
        Score(replace(six(), reference={"accuracy": 0.9, "latency_ms": 10.0, "size_mb": 20.0}))
