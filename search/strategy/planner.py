"""Which candidate to try next: the one that begins the batch with the most expected gain per second.

A batch is candidates that are cheap together since they share stages that nobody paid for yet. From each promising
candidate a batch is grown by the candidate with the highest marginal gain per marginal second, as long as that is above
the batch's own rate; the gain of a batch is over joint draws of all objectives, so near-copies add little to it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from search.strategy.costs import Costs
from search.strategy.ground import Array, Ground
from search.strategy.improvement import Levels
from search.strategy.surrogate import Surrogate

SHORTLIST = 160
SEEDS = 8
DRAWS = 24
BATCH = 6
PAIRS = 0.1
"""What a pair of values that was never tried counts in the first design, beside 1 for a value that was not."""


class Planner:
    """Plans over one ground. Objectives are minimised, those compared by ratio as logarithms.

    ``reference``: (objectives,) the worst values that a user would accept. ``shares``: the objectives that are minus a
    share in 0..1, such as accuracy: their effects add up as log odds.
    """

    def __init__(
        self, ground: Ground, reference: Array, *, seed: int, shares: Sequence[int] = (), reuse: bool = True
    ) -> None:
        self.ground = ground
        self.costs = Costs(ground, seed)
        self._reference = np.asarray(reference, dtype=float)
        self._rng = np.random.default_rng(seed)
        self._reuse = reuse
        self._shares = frozenset(shares)
        every = range(ground.codes.shape[1])
        count = len(self._reference)
        self.models = [Surrogate(ground, tuple(every), seed + 100 + k) for k in range(count)]
        self._seen: list[dict[int, float]] = [{} for _ in range(count)]
        self._variance: list[dict[int, float]] = [{} for _ in range(count)]
        self._predicted: tuple[Array, Array] | None = None
        self._levels: Levels | None = None
        self.rate = 0.0
        self._full: dict[int, Array] = {}
        self._failed: set[int] = set()
        self._over: set[int] = set()

    def suggest(self) -> int | None:
        """The next row; null when every one was tried."""
        left = np.ones(len(self.ground.codes), dtype=bool)
        left[list(self._over)] = False
        rows = np.flatnonzero(left)
        if len(rows) == 0:
            return None
        if self._over:
            fresh = self._fresh(rows)
            if len(self._full) < 2 or fresh.any():
                return self._first(rows, fresh)
            return self._best(rows)
        return int(self._rng.choice(rows))

    def learn(self, row: int, values: Mapping[int, float], variances: Mapping[int, float] | None = None) -> None:
        """A trial showed these objectives, by number; ``variances`` of those that are only estimates."""
        for k, value in values.items():
            self._seen[k][row] = value
            self._variance[k][row] = (variances or {}).get(k, 0.0)

    def accept(self, row: int, values: Sequence[float]) -> None:
        """A trial is known well enough in every objective to be on the front."""
        self._full[row] = np.array(values)

    def expects(self, row: int) -> tuple[Array, Array]:
        """(objectives,) mean and standard deviation of a candidate as of the last suggestion; infinite before that."""
        if self._predicted is None:
            return np.zeros(len(self._reference)), np.full(len(self._reference), np.inf)
        return self._predicted[0][row], self._predicted[1][row]

    def gain(self, mean: Array, deviation: Array) -> float:
        """The expected gain of one candidate with these objectives."""
        if self._levels is None:
            return np.inf
        best = self._levels.best(self.front())
        return float(self._levels.expected(mean[None], deviation[None], best)[0])

    def end(self, row: int, *, failed: bool = False) -> None:
        """A trial is over."""
        self._over.add(row)
        if failed:
            self._failed.add(row)

    def front(self) -> Array:
        """(trials, objectives) of all tried in full."""
        return np.array(list(self._full.values())).reshape(-1, len(self._reference))

    def _fresh(self, rows: npt.NDArray[np.int64]) -> Array:
        """(rows,) how many of a candidate's values no trial has had yet."""
        codes = self.ground.codes
        tried = codes[list(self._over)]
        fresh = np.zeros(len(rows))
        for knob in range(codes.shape[1]):
            fresh += ~np.isin(codes[rows, knob], tried[:, knob])
        return fresh

    def _first(self, rows: npt.NDArray[np.int64], fresh: Array) -> int:
        """The candidate with the most that is new for its cost: values, then pairs of values, then at random."""
        codes = self.ground.codes
        tried = codes[list(self._over)]
        new = fresh.copy()
        for a in range(codes.shape[1]):
            for b in range(a):
                width = int(codes[:, b].max()) + 2
                new += PAIRS * ~np.isin(codes[rows, a] * width + codes[rows, b], tried[:, a] * width + tried[:, b])
        worth = new * self._works(rows) / np.sqrt(self._new_seconds(rows))
        return int(rows[np.argmax(worth * (1 + 1e-6 * self._rng.random(len(rows))))])

    def _new_seconds(self, rows: npt.NDArray[np.int64]) -> Array:
        seconds = self.costs.seconds()[rows]
        return np.asarray((seconds * self.costs.owed()[rows]).sum(axis=1) if self._reuse else seconds.sum(axis=1))

    def _best(self, rows: npt.NDArray[np.int64]) -> int:
        for k, (model, seen) in enumerate(zip(self.models, self._seen, strict=True)):
            values = np.array(list(seen.values()))
            extra = np.array(list(self._variance[k].values()))
            if k in self._shares:
                extra /= np.clip(values * (1 + values), -1.0, -1e-3) ** 2  # of log odds, by the delta method
                values = _odds(values)
            model.observe(list(seen), values, extra)
        every = np.arange(len(self.ground.codes))
        predicted = [self._predict(k, every) for k in range(len(self.models))]
        mean = np.stack([one[0] for one in predicted], axis=1)
        deviation = np.stack([one[1] for one in predicted], axis=1)
        self._predicted = mean, deviation
        mean, deviation = mean[rows], deviation[rows]
        values = self.front()
        low = np.minimum(values.min(axis=0), (mean - 2 * deviation).min(axis=0))[1:]
        levels = self._levels = Levels.of(self._reference, low)
        best = levels.best(values)
        gain = levels.expected(mean, deviation, best) * self._works(rows)
        cost = self._new_seconds(rows)
        chosen = self._shortlist(gain, cost, rows)
        if not self._reuse:
            self.rate = float((gain / cost).max())
            return int(rows[np.argmax(gain / cost)])
        return self._grown(rows, chosen, gain, cost, levels, best)

    def _predict(self, k: int, rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        mean, deviation = self.models[k].predict(rows)
        if k not in self._shares:
            return mean, deviation
        spread = np.sqrt(1 + np.pi / 8 * deviation**2)  # MacKay 1992, Neural Computation 4:720: of a logistic of a normal
        share = 1 / (1 + np.exp(mean / spread))
        return -share, deviation * share * (1 - share)

    def _draw(self, k: int, rows: npt.NDArray[np.int64]) -> Array:
        drawn = self.models[k].draws(rows, DRAWS)
        return -1 / (1 + np.exp(drawn)) if k in self._shares else drawn

    def _works(self, rows: npt.NDArray[np.int64]) -> Array:
        """The chance of each candidate to give figures: of the failures among what was tried nearby."""
        if not self._failed:
            return np.ones(len(rows))
        tried = np.array(sorted(self._over))
        bad = np.isin(tried, sorted(self._failed))
        apart = (self.ground.codes[rows][:, None, :] != self.ground.codes[tried][None]).sum(axis=2)
        near = np.exp(-1.5 * apart)
        return np.asarray(1.0 - (near @ bad) / (near.sum(axis=1) + 0.05))

    def _shortlist(self, gain: Array, cost: Array, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        half = SHORTLIST // 2
        by_rate = np.argsort(-gain / cost, kind="stable")[:half]
        by_gain = np.argsort(-gain, kind="stable")[:half]
        return np.unique(np.concatenate([by_rate, by_gain]))

    def _grown(
        self,
        rows: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.int64],
        gain: Array,
        cost: Array,
        levels: Levels,
        best: Array,
    ) -> int:
        draws = np.stack([self._draw(k, rows[chosen]) for k in range(len(self.models))], axis=2)
        attained = levels.attained(draws)
        works = self._works(rows[chosen])
        seconds = self.costs.seconds()[rows[chosen]]
        owed = self.costs.owed()[rows[chosen]]
        nodes = self.ground.prefixes[rows[chosen]]
        rate = gain[chosen] / cost[chosen]
        top, winner = -1.0, int(np.argmax(rate))
        for seed in self._seeds(rate, gain[chosen], nodes, owed):
            reached, begin = self._rate(seed, rate[seed], gain[chosen], attained, works, seconds, owed, nodes, levels, best)
            if reached > top:
                top, winner = reached, begin
        self.rate = top
        return int(rows[chosen[winner]])

    def _seeds(self, rate: Array, gain: Array, nodes: npt.NDArray[np.int64], owed: npt.NDArray[np.bool_]) -> Sequence[int]:
        """The best candidate behind each stage that is still to be paid, the best few of them."""
        seeds: dict[tuple[int, int], int] = {}
        for index in np.argsort(-gain, kind="stable"):
            stages = np.flatnonzero(owed[index, :-1])
            key = (int(stages[0]), int(nodes[index, stages[0]])) if len(stages) else (-1, 0)
            seeds.setdefault(key, int(index))
        order = sorted(seeds.values(), key=lambda index: -rate[index])
        return list(dict.fromkeys([int(np.argmax(rate)), *order[:SEEDS]]))

    def _rate(
        self,
        seed: int,
        rate: float,
        gains: Array,
        attained: Array,
        works: Array,
        seconds: Array,
        owed: npt.NDArray[np.bool_],
        nodes: npt.NDArray[np.int64],
        levels: Levels,
        best: Array,
    ) -> tuple[float, int]:
        """The rate of the batch grown from a seed, and the member to begin with."""
        surface = np.minimum(best, attained[:, seed])
        bill = owed.copy()
        self._settle(bill, nodes, seed)
        total_gain, total_cost = float(gains[seed]), float((seconds[seed] * owed[seed]).sum())
        members = [seed]
        for _ in range(BATCH - 1):
            more = (np.maximum(surface[:, None, :] - attained, 0.0) @ levels.sizes).mean(axis=0) * works
            price = (seconds * bill).sum(axis=1)
            more[members] = 0.0
            best_rate = more / price
            index = int(np.argmax(best_rate))
            if best_rate[index] <= total_gain / total_cost:
                break
            total_gain += float(more[index])
            total_cost += float(price[index])
            members.append(index)
            self._settle(bill, nodes, index)
            surface = np.minimum(surface, attained[:, index])
        return total_gain / total_cost, seed

    @staticmethod
    def _settle(bill: npt.NDArray[np.bool_], nodes: npt.NDArray[np.int64], index: int) -> None:
        bill[:, :-1] &= nodes != nodes[index]


def _odds(losses: Array) -> Array:
    """The log odds against, of minus shares; a share of 0 or 1 counts as a thousandth from it."""
    share = np.clip(-losses, 1e-3, 1 - 1e-3)
    return np.asarray(np.log((1 - share) / share))
