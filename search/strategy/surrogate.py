"""A Gaussian process over codes of knob values, conditioned on one objective's observations.

The kernel adds up what each knob does, what each pair does, and what all do together:
``sum_k b_k + pairs * sum_{k<l} b_k b_l + joint * exp(-sum_k theta_k d_k)`` with ``b_k = weight_k exp(-d_k)``. Here
``d_k(x, y)`` is how far apart two values of knob k are (`Ground.distances`): 0 or 1 for unordered ones (the kernel of
Hutter et al. 2011, LION 5:507), the absolute difference for ordered ones. Sums by order of interaction are Duvenaud et
al. 2011, NeurIPS 24, "Additive Gaussian processes". A pair's variance is the product of its knobs' weights, and
``theta_k`` grows with ``weight_k``: what does much alone does much with others (effect heredity; Wu & Hamada 2009,
"Experiments", section 4.6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from search.strategy.ground import Array, Codes, Ground

FEATURES = 512
"""Random signs per candidate that prior draws are made of; the kernel of the draws is off by about 1 / sqrt of it."""

_FIT_AT_MOST = 300
_PRIOR_WEIGHT = (np.log(1.0), 1.5)  # of all knobs together; in units of the observations' variance, like those below
_PRIOR_PAIRS = (np.log(0.5), 1.0)
_PRIOR_JOINT = (np.log(0.1), 1.0)
_PRIOR_NOISE = (np.log(1e-3), 1.5)
_THETA = 1.0  # of a knob that has all the weight
_JITTER = 1e-8


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What a surrogate learned of its objective, as logarithms: (knobs,) weights, and those of the other terms."""

    weight: Array
    pairs: float
    joint: float
    noise: float

    @classmethod
    def prior(cls, knobs: int) -> "Scales":
        """The middle of the prior."""
        weight = np.full(knobs, _PRIOR_WEIGHT[0] - np.log(max(knobs, 1)))
        return cls(weight=weight, pairs=_PRIOR_PAIRS[0], joint=_PRIOR_JOINT[0], noise=_PRIOR_NOISE[0])

    @classmethod
    def unpacked(cls, parameters: Array) -> "Scales":
        pairs, joint, noise = parameters[-3:].tolist()
        return cls(weight=parameters[:-3], pairs=pairs, joint=joint, noise=noise)

    def packed(self) -> Array:
        return np.concatenate([self.weight, [self.pairs, self.joint, self.noise]])


class Surrogate:
    """One objective over one ground. ``knobs``: the columns that it may depend on."""

    def __init__(self, ground: Ground, knobs: Sequence[int], seed: int) -> None:
        self._ground = ground
        self._knobs = tuple(knobs)
        self._tables = [ground.distances(knob) for knob in self._knobs]
        self._rng = np.random.default_rng(seed)
        self.scales = Scales.prior(len(self._knobs))
        self._fitted_at = 0
        self._rows: list[int] = []
        self._mean, self._scale = 0.0, 1.0
        self._half = np.zeros((0, len(ground.codes)))
        self._factor = np.zeros((0, 0))
        self._weights = np.zeros(0)
        self._signs: npt.NDArray[np.float32] | None = None

    def observe(self, rows: Sequence[int], values: Array) -> None:
        """Condition on these observations, all there are.

        Scales are learned anew when there are a tenth more than when they were last.
        """
        values = np.asarray(values, dtype=float)
        self._mean = float(values.mean()) if len(values) else 0.0
        spread = float(values.std()) if len(values) > 1 else 0.0
        self._scale = spread if spread > 0 else 1.0
        scaled = (values - self._mean) / self._scale
        grown = len(rows) >= 3 and len(rows) >= 1.1 * self._fitted_at
        if grown:
            self._learn(rows, scaled)
            self._fitted_at = len(rows)
            self._signs = None
        known = len(self._rows)
        if grown or list(rows[:known]) != self._rows:
            self._condition(rows)
        else:
            self._extend(rows[known:])
        self._rows = list(rows)
        self._weights = solve_triangular(self._factor, scaled, lower=True) if len(rows) else np.zeros(0)

    def predict(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> tuple[Array, Array]:
        """Mean and standard deviation at these candidates, of the objective without noise."""
        half = self._half[:, rows]
        mean = self._mean + self._scale * (half.T @ self._weights)
        variance = np.maximum(self._total() - np.einsum("ij,ij->j", half, half), 1e-12)
        return mean, self._scale * np.sqrt(variance)

    def draws(self, rows: npt.NDArray[np.int64], count: int) -> Array:
        """(count, rows) joint draws from the posterior, by Matheron's rule (Wilson et al. 2020, ICML, eq. 5)."""
        prior = self._prior_draws(count)
        if self._rows:
            noise = np.sqrt(np.exp(self.scales.noise))
            there = prior[self._rows] + noise * self._rng.standard_normal((len(self._rows), count))
            missing = self._weights[:, None] - solve_triangular(self._factor, there, lower=True)
            drawn = prior[rows] + self._half[:, rows].T @ missing
        else:
            drawn = prior[rows]
        return np.asarray(self._mean + self._scale * drawn.T, dtype=float)

    def _total(self) -> float:
        """The prior variance."""
        weight = np.exp(self.scales.weight)
        pairs = (weight.sum() ** 2 - (weight**2).sum()) / 2
        return float(weight.sum() + np.exp(self.scales.pairs) * pairs + np.exp(self.scales.joint))

    def _theta(self) -> Array:
        return np.asarray(_THETA * np.exp(self.scales.weight))

    def _between(self, first: Codes, second: Codes) -> Array:
        exponent = np.full((len(first), len(second)), self.scales.joint)
        alone, squares = np.zeros_like(exponent), np.zeros_like(exponent)
        weights = np.exp(self.scales.weight)
        for knob, table, weight, theta in zip(self._knobs, self._tables, weights, self._theta(), strict=True):
            where = first[:, knob][:, None], second[:, knob][None, :]
            near = weight * np.exp(-table)
            alone += near[where]
            squares += (near**2)[where]
            exponent -= (theta * table)[where]
        return np.asarray(alone + np.exp(self.scales.pairs) * (alone**2 - squares) / 2 + np.exp(exponent))

    def _condition(self, rows: Sequence[int]) -> None:
        codes = self._ground.codes[list(rows)]
        inner = self._between(codes, codes)
        inner[np.diag_indices_from(inner)] += np.exp(self.scales.noise) + _JITTER
        self._factor = cholesky(inner, lower=True)
        self._half = solve_triangular(self._factor, self._between(codes, self._ground.codes), lower=True)

    def _extend(self, rows: Sequence[int]) -> None:
        """Append rows to the factor and to what it makes of the ground, one by one: O(observations x candidates)."""
        for row in rows:
            line = self._half[:, row]
            beyond = self._total() + np.exp(self.scales.noise) + _JITTER - line @ line
            corner = np.sqrt(max(beyond, _JITTER))
            size = len(line)
            factor = np.zeros((size + 1, size + 1))
            factor[:size, :size] = self._factor
            factor[size, :size] = line
            factor[size, size] = corner
            here = self._between(self._ground.codes[[row]], self._ground.codes)[0]
            self._half = np.vstack([self._half, (here - line @ self._half) / corner])
            self._factor = factor

    def _learn(self, rows: Sequence[int], scaled: Array) -> None:
        """Scales of the highest posterior density: the marginal likelihood with log-normal priors, by its gradient."""
        chosen = np.arange(len(rows))
        if len(chosen) > _FIT_AT_MOST:
            chosen = np.sort(self._rng.choice(chosen, _FIT_AT_MOST, replace=False))
        codes = self._ground.codes[np.asarray(rows)[chosen]]
        apart = np.stack(
            [
                table[codes[:, k][:, None], codes[:, k][None, :]]
                for k, table in zip(self._knobs, self._tables, strict=True)
            ]
        )
        near = np.exp(-apart)
        y = scaled[chosen]
        middle = Scales.prior(len(self._knobs)).packed()
        width = np.full(len(middle), _PRIOR_WEIGHT[1])
        width[-3:] = _PRIOR_PAIRS[1], _PRIOR_JOINT[1], _PRIOR_NOISE[1]

        def loss(parameters: Array) -> tuple[float, Array]:
            at = Scales.unpacked(parameters)
            weight, pairs, noise = np.exp(at.weight), np.exp(at.pairs), np.exp(at.noise)
            each = weight[:, None, None] * near
            alone = each.sum(axis=0)
            twos = (alone**2 - (each**2).sum(axis=0)) / 2
            joint = np.exp(at.joint - _THETA * np.tensordot(weight, apart, axes=1))
            full = alone + pairs * twos + joint + (noise + _JITTER) * np.eye(len(y))
            factor = cholesky(full, lower=True)
            alpha = cho_solve((factor, True), y)
            inverse = cho_solve((factor, True), np.eye(len(y)))
            outer = 0.5 * (inverse - np.outer(alpha, alpha))
            by_weight = each * (1 + pairs * (alone - each)) - _THETA * weight[:, None, None] * apart * joint
            slope = np.append(
                np.tensordot(by_weight, outer, axes=([1, 2], [0, 1])),
                [pairs * (outer * twos).sum(), (outer * joint).sum(), noise * np.trace(outer)],
            )
            z = (parameters - middle) / width
            value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * z @ z
            return float(value), slope + z / width

        bounds = [(-9.0, 4.0)] * len(self._knobs) + [(-9.0, 3.0), (-9.0, 3.0), (-12.0, 0.0)]
        found = minimize(
            loss, self.scales.packed(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}
        )
        self.scales = Scales.unpacked(found.x)

    def _prior_draws(self, count: int) -> Array:
        """(candidates, count) draws from the prior: single knobs and pairs exactly, all together by random signs."""
        normal = self._rng.standard_normal
        weights = np.sqrt(np.exp(self.scales.joint) / FEATURES) * normal((FEATURES, count))
        drawn = np.asarray(self._features() @ weights.astype(np.float32), dtype=float)
        codes = self._ground.codes
        roots = [
            np.sqrt(np.exp(weight)) * cholesky(np.exp(-table) + _JITTER * np.eye(len(table)), lower=True)
            for weight, table in zip(self.scales.weight, self._tables, strict=True)
        ]
        pairs = np.sqrt(np.exp(self.scales.pairs))
        for index, (knob, root) in enumerate(zip(self._knobs, roots, strict=True)):
            drawn += (root @ normal((len(root), count)))[codes[:, knob]]
            for other, beside in zip(self._knobs[:index], roots[:index], strict=True):
                both = np.einsum("ab,bdc,ed->aec", root, normal((len(root), len(beside), count)), beside)
                drawn += pairs * both[codes[:, knob], codes[:, other]]
        return drawn

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
