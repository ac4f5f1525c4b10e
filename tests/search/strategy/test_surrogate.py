"""The surrogate against a Gaussian process written out, and its draws against its own predictions."""

import numpy as np
import pytest
from scipy import optimize

from search.strategy import surrogate
from search.strategy.ground import Array, Ground, evenly
from search.strategy.surrogate import Surrogate


@pytest.fixture
def ground() -> Ground:
    codes = np.random.default_rng(0).integers(0, 3, (60, 4)).astype(np.int16)
    codes[:10, 3] = -1
    return Ground(codes=codes, positions=[evenly("abc"), None, None, None], stages=[(0,), (1, 2, 3)])


def kernel(ground: Ground, model: Surrogate) -> Array:
    """The kernel of the module's docstring, pair by pair of candidates."""
    weight = np.exp(model.scales.weight)
    matrix = np.zeros((len(ground.codes), len(ground.codes)))
    for i, x in enumerate(ground.codes):
        for j, y in enumerate(ground.codes):
            d = np.array([0.0 if a == b else abs(a - b) / 2 if k == 0 else 1.0 for k, (a, b) in enumerate(zip(x, y))])  # noqa: B905
            b = weight * np.exp(-d)
            pairs = sum(b[k] * b[m] for k in range(4) for m in range(k))
            matrix[i, j] = b.sum() + np.exp(model.scales.pairs) * pairs + np.exp(model.scales.joint - weight @ d)
    return matrix


def test_predictions_are_those_of_a_gaussian_process(ground: Ground) -> None:
    model, y = Surrogate(ground, range(4), 0), np.random.default_rng(1).normal(3.0, 2.0, 30)
    rows = list(range(30, 60))
    model.observe(rows[:28], y[:28])
    model.observe(rows, y)  # the last two are appended
    matrix, scaled = kernel(ground, model), (y - y.mean()) / y.std()
    inner = matrix[np.ix_(rows, rows)] + (np.exp(model.scales.noise) + 1e-8) * np.eye(30)
    gain = np.linalg.solve(inner, matrix[rows]).T
    mean, deviation = model.predict()
    assert mean == pytest.approx(y.mean() + y.std() * gain @ scaled)
    assert deviation**2 == pytest.approx(y.var() * np.diag(matrix - gain @ matrix[rows]), abs=1e-7)


def test_draws_have_the_mean_and_the_covariance_of_predictions(ground: Ground) -> None:
    model, y = Surrogate(ground, range(4), 0), np.random.default_rng(1).normal(size=20)
    model.observe(list(range(20)), y)
    rows = np.arange(15, 45)
    drawn = model.draws(rows, 20_000)
    mean, deviation = (one[rows] for one in model.predict())
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.05 * deviation.max())
    matrix = kernel(ground, model)
    inner = matrix[:20, :20] + np.exp(model.scales.noise) * np.eye(20)
    expected = y.var() * (matrix - matrix[:, :20] @ np.linalg.solve(inner, matrix[:20]))[np.ix_(rows, rows)]
    assert np.cov(drawn.T) == pytest.approx(expected, abs=0.12 * deviation.max() ** 2)


def test_scales_are_learned_along_the_right_gradient(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    real, worst = optimize.minimize, []

    def watched(loss, start, **options):  # type: ignore[no-untyped-def]
        worst.append(np.abs(loss(start)[1] - optimize.approx_fprime(start, lambda at: loss(at)[0], 1e-6)).max())
        return real(loss, start, **options)

    monkeypatch.setattr(surrogate, "minimize", watched)
    Surrogate(ground, range(4), 0).observe(list(range(40)), np.random.default_rng(2).normal(size=40))
    assert worst
    assert max(worst) < 1e-3


def test_a_knob_that_does_nothing_weighs_least(ground: Ground) -> None:
    model = Surrogate(ground, range(4), 0)
    model.observe(list(range(60)), np.array([float(a == 1) + 0.5 * (b == 2) for a, b, *_ in ground.codes]))
    weight = np.exp(model.scales.weight)
    assert min(weight[:2]) > 10 * max(weight[2:])
