"""The planner on small grounds: what it covers first, what it finds, what it pays for."""

import itertools

import numpy as np
import pytest

from search.strategy.ground import Ground
from search.strategy.planner import Planner

SIZES = (4, 3, 3)


@pytest.fixture
def ground() -> Ground:
    codes = np.array(list(itertools.product(*map(range, SIZES))), dtype=np.int16)
    return Ground(codes=codes, positions=[None] * 3, stages=[(0,), (1,), (2,)])


def truth(ground: Ground) -> np.ndarray:
    """Minus a share, and the logarithm of a time, of each candidate."""
    a, b, c = ground.codes.T
    return np.stack([-1 / (1 + np.exp(1.0 - a + 0.7 * b - 0.2 * c)), 0.6 * a + 0.3 * b], axis=1)


def carry_on(planner: Planner, values: np.ndarray, trials: int) -> list[int]:
    tried = []
    for _ in range(trials):
        row = planner.suggest()
        if row is None:
            break
        tried.append(row)
        planner.costs.learn(row, {0: 10.0, 1: 2.0, 2: 0.5}, 0.5)
        planner.learn(row, dict(enumerate(values[row])))
        planner.accept(row, values[row].tolist())
        planner.end(row)
    return tried


def test_every_value_is_tried_first_and_nothing_twice(ground: Ground) -> None:
    planner = Planner(ground, np.array([0.0, 3.0]), seed=0, shares=[0])
    tried = carry_on(planner, truth(ground), 100)
    assert sorted(tried) == list(range(36))
    first = ground.codes[tried[: max(SIZES) + 3]]
    assert [len(set(column)) for column in first.T] == list(SIZES)


def test_it_finds_the_front_in_fewer_trials_than_chance(ground: Ground) -> None:
    values = truth(ground)
    front = {
        row
        for row, mine in enumerate(values)
        if not any((other <= mine).all() and (other < mine).any() for other in values)
    }
    needed = []
    for seed in range(5):
        tried = carry_on(Planner(ground, np.array([0.0, 3.0]), seed=seed, shares=[0]), values, 100)
        needed.append(max(tried.index(row) for row in front) + 1)
    chance = 36 * len(front) / (len(front) + 1)  # the expected place of the last of them in a shuffled list
    assert np.mean(needed) < 0.75 * chance


def test_prefixes_that_were_paid_are_free(ground: Ground) -> None:
    planner = Planner(ground, np.array([0.0, 3.0]), seed=0)
    planner.costs.learn(0, {0: 10.0, 1: 2.0, 2: 0.5}, 1.0)
    owed = planner.costs.owed()
    for row, codes in enumerate(ground.codes):
        shared = [bool((codes[: stage + 1] == ground.codes[0, : stage + 1]).all()) for stage in range(3)]
        assert owed[row].tolist() == [not one for one in shared] + [True]
    assert planner.costs.seconds()[0] == pytest.approx([10.0, 2.0, 0.5, 1.0], rel=1e-3)


def test_what_fails_nearby_is_avoided(ground: Ground) -> None:
    planner = Planner(ground, np.array([0.0, 3.0]), seed=0, shares=[0])
    values = truth(ground)
    carry_on(planner, values, 12)
    bad = {row for row in range(36) if ground.codes[row, 0] == 3}
    for row in bad:
        planner.end(row, failed=True)
    found = planner.suggest()
    assert found is not None
    assert found not in bad
