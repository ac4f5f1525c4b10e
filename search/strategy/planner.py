"""Which candidate to try next: first a small design that covers every axis, then what promises most per second."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from search.strategy.batches import Shortlist
from search.strategy.costs import Costs
from search.strategy.ground import Array, Ground
from search.strategy.improvement import Levels
from search.strategy.surrogate import Surrogate

SHORTLIST = 160
DRAWS = 24
PAIRS = 0.1
"""What a pair of values that was never tried counts in the first design, beside 1 for a value that was not."""

Rows = npt.NDArray[np.int64]


class Planner:
    """Plans over one ground. Objectives are minimised, those compared by ratio as logarithms.

    ``reference``: (objectives,) the worst values that a user would accept. ``shares``: the objectives that are minus a
    share in 0..1, such as accuracy: their effects add up as log odds. ``reuse``: whether paid stages are free.
    """

    def __init__(
        self, ground: Ground, reference: Array, *, seed: int, shares: Sequence[int] = (), reuse: bool = True
    ) -> None:
        self.ground = ground
        self.costs = Costs(ground, seed)
        self.rate = 0.0  # gain per second that the last suggestion promised
        self._reference = np.asarray(reference, dtype=float)
        self._rng = np.random.default_rng(seed)
        self._shares = frozenset(shares)
        self._reuse = reuse
        count = len(self._reference)
        knobs = tuple(range(ground.codes.shape[1]))
        self._models = [Surrogate(ground, knobs, seed + 100 + k) for k in range(count)]
        self._seen: list[dict[int, float]] = [{} for _ in range(count)]
        self._full: dict[int, Array] = {}
        self._over: set[int] = set()
        self._failed: set[int] = set()
        self._expected: tuple[Array, Array] | None = None
        self._levels: Levels | None = None

    def suggest(self) -> int | None:
        """The next row; null when every one was tried."""
        rows = np.setdiff1d(np.arange(len(self.ground.codes)), sorted(self._over))
        if len(rows) == 0:
            return None
        if not self._over:
            return int(self._rng.choice(rows))
        fresh = self._fresh(rows)
        if len(self._full) < 2 or fresh.any():
            return self._first(rows, fresh)
        return self._best(rows)

    def learn(self, row: int, values: Mapping[int, float]) -> None:
        """A trial showed these objectives, by number."""
        for k, value in values.items():
            self._seen[k][row] = value

    def accept(self, row: int, values: Sequence[float]) -> None:
        """A trial is known well enough in every objective to be on the front."""
        self._full[row] = np.array(values)

    def end(self, row: int, *, failed: bool = False) -> None:
        """A trial is over."""
        self._over.add(row)
        if failed:
            self._failed.add(row)

    def expects(self, row: int) -> tuple[Array, Array] | None:
        """(objectives,) mean and deviation of a candidate as of the last suggestion; null before there was one."""
        return None if self._expected is None else (self._expected[0][row], self._expected[1][row])

    def gain(self, mean: Array, deviation: Array) -> float:
        """The expected gain of a candidate with these objectives, (objectives,) each; infinite before a suggestion."""
        if self._levels is None:
            return np.inf
        surface = self._levels.best(self._front())
        return float(self._levels.expected(mean[None], deviation[None], surface)[0])

    def _front(self) -> Array:
        """(trials, objectives) of all that are known in full."""
        return np.array(list(self._full.values())).reshape(-1, len(self._reference))

    def _fresh(self, rows: Rows) -> Array:
        """(rows,) how many of a candidate's values no trial has had yet."""
        codes = self.ground.codes
        tried = codes[list(self._over)]
        each = [~np.isin(codes[rows, knob], tried[:, knob]) for knob in range(codes.shape[1])]
        return np.asarray(np.sum(each, axis=0), dtype=float)

    def _first(self, rows: Rows, fresh: Array) -> int:
        """The candidate with the most that is new for its cost: values, then pairs of values."""
        codes = self.ground.codes.astype(np.int64)
        tried = codes[list(self._over)]
        new = fresh.copy()
        for a in range(codes.shape[1]):
            for b in range(a):
                width = int(codes[:, b].max()) + 2
                new += PAIRS * ~np.isin(codes[rows, a] * width + codes[rows, b], tried[:, a] * width + tried[:, b])
        worth = new * self._works(rows) / np.sqrt(self._price(rows))
        return int(rows[np.argmax(worth * (1 + 1e-6 * self._rng.random(len(rows))))])

    def _price(self, rows: Rows) -> Array:
        """(rows,) seconds that a candidate would newly cost."""
        return np.asarray((self.costs.seconds()[rows] * self._owed(rows)).sum(axis=1))

    def _owed(self, rows: Rows) -> npt.NDArray[np.bool_]:
        owed = self.costs.owed()[rows]
        return owed if self._reuse else np.ones_like(owed)

    def _best(self, rows: Rows) -> int:
        mean, deviation = self._expected = self._predicted()
        mean, deviation = mean[rows], deviation[rows]
        front = self._front()
        low = np.minimum(front.min(axis=0), (mean - 2 * deviation).min(axis=0))[1:]
        levels = self._levels = Levels.of(self._reference, low)
        surface = levels.best(front)
        gain = levels.expected(mean, deviation, surface) * self._works(rows)
        by_rate = np.argsort(-gain / self._price(rows), kind="stable")[: SHORTLIST // 2]
        by_gain = np.argsort(-gain, kind="stable")[: SHORTLIST // 2]
        chosen = np.union1d(by_rate, by_gain)
        listed = rows[chosen]
        shortlist = Shortlist(
            gain=gain[chosen],
            works=self._works(listed),
            attained=levels.attained(np.stack([self._draws(k, listed) for k in range(len(self._models))], axis=2)),
            seconds=self.costs.seconds()[listed],
            owed=self._owed(listed),
            nodes=self.ground.prefixes[listed],
        )
        winner, self.rate = shortlist.best(levels, surface)
        return int(listed[winner])

    def _predicted(self) -> tuple[Array, Array]:
        """(candidates, objectives) mean and standard deviation of all candidates by what was seen so far."""
        found = []
        for k, (model, seen) in enumerate(zip(self._models, self._seen, strict=True)):
            values = np.array(list(seen.values()))
            model.observe(list(seen), _odds(values) if k in self._shares else values)
            mean, deviation = model.predict()
            if k in self._shares:
                # MacKay 1992, Neural Computation 4:720: the mean of a logistic function of a normal variable
                share = 1 / (1 + np.exp(mean / np.sqrt(1 + np.pi / 8 * deviation**2)))
                mean, deviation = -share, deviation * share * (1 - share)
            found.append((mean, deviation))
        return np.stack([one[0] for one in found], axis=1), np.stack([one[1] for one in found], axis=1)

    def _draws(self, k: int, rows: Rows) -> Array:
        drawn = self._models[k].draws(rows, DRAWS)
        return -1 / (1 + np.exp(drawn)) if k in self._shares else drawn

    def _works(self, rows: Rows) -> Array:
        """(rows,) the chance of each candidate to give figures: by the failures among what was tried nearby."""
        if not self._failed:
            return np.ones(len(rows))
        tried = np.array(sorted(self._over))
        bad = np.isin(tried, sorted(self._failed))
        apart = (self.ground.codes[rows][:, None, :] != self.ground.codes[tried][None]).sum(axis=2)
        near = np.exp(-1.5 * apart)
        return np.asarray(1.0 - (near @ bad) / (near.sum(axis=1) + 0.05))


def _odds(losses: Array) -> Array:
    """The log odds against, of minus shares; a share of 0 or 1 counts as a thousandth from it."""
    share = np.clip(-losses, 1e-3, 1 - 1e-3)
    return np.asarray(np.log((1 - share) / share))
