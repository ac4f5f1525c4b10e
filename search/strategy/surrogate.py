"""A Gaussian process over codes of knob values, conditioned on one objective's observations.

The kernel is a product over knobs, ``variance * exp(-sum_k theta_k d_k(x, y))``, where ``d_k`` is how far apart the two
values of knob k are (`Ground.distances`): 0 or 1 for unordered values (the exchangeable kernel of Hutter et al. 2011,
LION 5:507), the absolute difference for ordered ones. A theta near zero says that a knob does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from search.strategy.ground import Array, Codes, Ground

FEATURES = 512
"""Random signs per candidate that prior draws are made of; the kernel of the draws is off by about 1 / sqrt of it."""

_FIT_AT_MOST = 300
_PRIOR_THETA = (np.log(0.3), 1.5)
_PRIOR_NOISE = (np.log(1e-3), 1.5)
_JITTER = 1e-8


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What a surrogate learned of its objective: log theta per knob, and the noise's share of the variance (log)."""

    log_theta: Array
    log_noise: float


class Surrogate:
    """One objective over one ground. ``knobs``: the columns that it may depend on."""

    def __init__(self, ground: Ground, knobs: Sequence[int], seed: int) -> None:
        self._ground = ground
        self._knobs = tuple(knobs)
        self._tables = [ground.distances(knob) for knob in self._knobs]
        self._rng = np.random.default_rng(seed)
        self.scales = Scales(log_theta=np.full(len(self._knobs), _PRIOR_THETA[0]), log_noise=_PRIOR_NOISE[0])
        self._fitted_at = 0
        self._rows: list[int] = []
        self._mean, self._scale = 0.0, 1.0
        self._half = np.zeros((0, len(ground.codes)))
        self._factor = np.zeros((0, 0))
        self._weights = np.zeros(0)
        self._signs: npt.NDArray[np.float32] | None = None

    def observe(self, rows: Sequence[int], values: Array, extra: Array | None = None) -> None:
        """Condition on these observations, all there are; ``extra`` is variance beyond the noise, in squared units.

        Scales are learned anew when there are a tenth more than when they were last.
        """
        values = np.asarray(values, dtype=float)
        self._mean = float(values.mean()) if len(values) else 0.0
        spread = float(values.std()) if len(values) > 1 else 0.0
        self._scale = spread if spread > 0 else 1.0
        scaled = (values - self._mean) / self._scale
        added = np.zeros(len(values)) if extra is None else extra / self._scale**2
        grown = len(rows) >= 3 and len(rows) >= 1.1 * self._fitted_at
        if grown:
            self._learn(rows, scaled, added)
            self._fitted_at = len(rows)
            self._signs = None
        known = len(self._rows)
        if grown or list(rows[:known]) != self._rows or extra is not None:
            self._condition(rows, added)
        else:
            self._extend(rows[known:])
        self._rows = list(rows)
        self._weights = solve_triangular(self._factor, scaled, lower=True) if len(rows) else np.zeros(0)

    def predict(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> tuple[Array, Array]:
        """Mean and standard deviation at these candidates, of the objective without noise."""
        half = self._half[:, rows]
        mean = self._mean + self._scale * (half.T @ self._weights)
        variance = np.maximum(1.0 - np.einsum("ij,ij->j", half, half), 1e-12)
        return mean, self._scale * np.sqrt(variance)

    def draws(self, rows: npt.NDArray[np.int64], count: int) -> Array:
        """(count, rows) joint draws from the posterior, by Matheron's rule (Wilson et al. 2020, ICML, eq. 5)."""
        signs = self._features()
        prior = signs @ self._rng.standard_normal((FEATURES, count)).astype(np.float32) / np.sqrt(FEATURES)
        if self._rows:
            noise = np.sqrt(np.exp(self.scales.log_noise))
            there = prior[self._rows] + noise * self._rng.standard_normal((len(self._rows), count))
            missing = self._weights[:, None] - solve_triangular(self._factor, there, lower=True)
            drawn = prior[rows] + self._half[:, rows].T @ missing
        else:
            drawn = prior[rows]
        return np.asarray(self._mean + self._scale * drawn.T, dtype=float)

    def _theta(self) -> Array:
        return np.exp(self.scales.log_theta)

    def _between(self, first: Codes, second: Codes) -> Array:
        exponent = np.zeros((len(first), len(second)))
        for knob, table, theta in zip(self._knobs, self._tables, self._theta(), strict=True):
            exponent += theta * table[first[:, knob][:, None], second[:, knob][None, :]]
        return np.exp(-exponent)

    def _condition(self, rows: Sequence[int], added: Array) -> None:
        codes = self._ground.codes[list(rows)]
        inner = self._between(codes, codes)
        inner[np.diag_indices_from(inner)] += np.exp(self.scales.log_noise) + added + _JITTER
        self._factor = cholesky(inner, lower=True)
        self._half = solve_triangular(self._factor, self._between(codes, self._ground.codes), lower=True)

    def _extend(self, rows: Sequence[int]) -> None:
        """Append rows to the factor and to what it makes of the ground, one by one: O(observations x candidates)."""
        for row in rows:
            line = self._half[:, row]
            beyond = 1.0 + np.exp(self.scales.log_noise) + _JITTER - line @ line
            corner = np.sqrt(max(beyond, _JITTER))
            size = len(line)
            factor = np.zeros((size + 1, size + 1))
            factor[:size, :size] = self._factor
            factor[size, :size] = line
            factor[size, size] = corner
            here = self._between(self._ground.codes[[row]], self._ground.codes)[0]
            self._half = np.vstack([self._half, (here - line @ self._half) / corner])
            self._factor = factor

    def _learn(self, rows: Sequence[int], scaled: Array, added: Array) -> None:
        """Scales of the highest posterior density: the marginal likelihood with log-normal priors, by its gradient."""
        chosen = np.arange(len(rows))
        if len(chosen) > _FIT_AT_MOST:
            chosen = np.sort(self._rng.choice(chosen, _FIT_AT_MOST, replace=False))
        codes = self._ground.codes[np.asarray(rows)[chosen]]
        apart = np.stack(
            [table[codes[:, k][:, None], codes[:, k][None, :]] for k, table in zip(self._knobs, self._tables, strict=True)]
        )
        y, more = scaled[chosen], added[chosen]

        def loss(parameters: Array) -> tuple[float, Array]:
            log_theta, log_noise = parameters[:-1], parameters[-1]
            theta, noise = np.exp(log_theta), np.exp(log_noise)
            inner = np.exp(-np.tensordot(theta, apart, axes=1))
            full = inner + np.diag(noise + more + _JITTER)
            factor = cholesky(full, lower=True)
            alpha = cho_solve((factor, True), y)
            inverse = cho_solve((factor, True), np.eye(len(y)))
            value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum()
            outer = 0.5 * (inverse - np.outer(alpha, alpha))
            slope = np.empty(len(parameters))
            weighted = outer * inner
            slope[:-1] = -theta * np.tensordot(apart, weighted, axes=([1, 2], [0, 1]))
            slope[-1] = noise * np.trace(outer)
            for at, (middle, width) in ((slice(None, -1), _PRIOR_THETA), (slice(-1, None), _PRIOR_NOISE)):
                z = (parameters[at] - middle) / width
                value += 0.5 * float(z @ z)
                slope[at] += z / width
            return float(value), slope

        begin = np.append(self.scales.log_theta, self.scales.log_noise)
        bounds = [(-8.0, 3.0)] * len(self._knobs) + [(-12.0, 0.0)]
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40})
        self.scales = Scales(log_theta=found.x[:-1], log_noise=float(found.x[-1]))

    def _features(self) -> npt.NDArray[np.float32]:
        """(candidates, features) products of random signs whose mean product over features is the kernel.

        Unordered values: one sign for all with probability exp(-theta), else each its own. Ordered ones: a telegraph
        process that changes its sign at rate theta / 2, so that E[s(u) s(v)] = exp(-theta |u - v|).
        """
        if self._signs is None:
            codes = self._ground.codes
            signs = np.ones((len(codes), FEATURES), dtype=np.float32)
            for knob, theta in zip(self._knobs, self._theta(), strict=True):
                signs *= self._knob_signs(knob, float(theta))[codes[:, knob]]
            self._signs = signs
        return self._signs

    def _knob_signs(self, knob: int, theta: float) -> npt.NDArray[np.float32]:
        """(values + 1, features) random signs of one knob; the last row is that the knob does not count."""
        count = int(self._ground.levels[knob])
        positions = self._ground.positions[knob]
        own = self._rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=(count + 1, FEATURES))
        together = self._rng.random(FEATURES) < np.exp(-theta)
        signs = np.where(together, own[:1], own)
        if positions is not None:
            order = np.argsort(positions[:count])
            gaps = np.diff(positions[:count][order])
            flips = self._rng.random((count - 1, FEATURES)) < 0.5 * (1 - np.exp(-theta * gaps))[:, None]
            walk = np.vstack([np.ones((1, FEATURES)), np.cumprod(np.where(flips, -1.0, 1.0), axis=0)])
            start = np.where(together, own[count], own[0])  # absent differs from each value as unordered ones do
            signs[order] = (walk * start).astype(np.float32)
            signs[count] = own[count]
        return signs
