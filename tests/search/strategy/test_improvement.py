"""Expected gains against Monte Carlo over exact hypervolumes."""

import numpy as np
import pytest

from objectives.pareto import hypervolume
from search.strategy.improvement import Levels


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_expected_gain_is_that_of_drawn_hypervolumes(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    reference = np.ones(objectives)
    front = rng.random((6, objectives))
    mean, deviation = rng.random((4, objectives)), 0.2 * rng.random((4, objectives))
    levels = Levels.of(reference, np.full(objectives - 1, -1.0))
    gains = levels.expected(mean, deviation, levels.best(front))
    whole = hypervolume(front, reference)
    for one, spread, gain in zip(mean, deviation, gains, strict=True):
        drawn = rng.normal(one, spread, (3000, objectives)).clip(-1.0)
        exact = np.mean([hypervolume(np.vstack([front, point]), reference) - whole for point in drawn])
        assert gain == pytest.approx(exact, rel=0.1, abs=0.01)


def test_the_surface_holds_the_hypervolume() -> None:
    rng = np.random.default_rng(0)
    front = rng.random((5, 2))
    levels = Levels.of(np.ones(2), np.zeros(1))
    held = float((1.0 - levels.best(front)) @ levels.sizes)
    assert held == pytest.approx(hypervolume(front, np.ones(2)), abs=1 / len(levels.sizes))


def test_attained_is_the_surface_of_one() -> None:
    levels = Levels.of(np.ones(3), np.zeros(2))
    draws = np.random.default_rng(1).random((2, 3, 3)) * 1.2
    found = levels.attained(draws)
    for d in range(2):
        for c in range(3):
            assert np.minimum(found[d, c], 1.0) == pytest.approx(levels.best(draws[d, [c]]))
