"""Batches of candidates that are cheap together, since they share stages that nobody paid for yet.

A batch is grown from one candidate by the one with the most marginal gain per marginal second, as long as that is above
the batch's own rate. The gain of a batch is over joint draws of all objectives, so near-copies add little to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.strategy.ground import Array
from search.strategy.improvement import Levels

SEEDS = 8
"""Stages still to be paid behind which a batch is tried."""
SIZE = 6
"""Members of a batch at most."""


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """The candidates that batches are made of.

    Attributes:
        gain: (candidates,) the expected gain of each alone.
        works: (candidates,) the chance that it gives figures at all.
        attained: (draws, candidates, cells) the first objective that it attains in each draw, see `Levels.attained`.
        seconds: (candidates, stages + 1) what each stage costs, and at last the use of the bundle.
        owed: like ``seconds``, which of them are still to be paid.
        nodes: (candidates, stages) the node of the stage tree.
    """

    gain: Array
    works: Array
    attained: Array
    seconds: Array
    owed: npt.NDArray[np.bool_]
    nodes: npt.NDArray[np.int64]

    def best(self, levels: Levels, surface: Array) -> tuple[int, float]:
        """The candidate whose batch gains most per second beyond the attainment surface, and that rate."""
        rates = {seed: self.rate(seed, levels, surface) for seed in self._seeds()}
        seed = max(rates, key=lambda one: rates[one])
        return seed, rates[seed]

    def rate(self, seed: int, levels: Levels, surface: Array) -> float:
        """Gain per second of the batch that is grown from a candidate."""
        bill = self.owed.copy()
        gain, seconds = float(self.gain[seed]), float(self.seconds[seed] @ bill[seed])
        members = [seed]
        surface = np.minimum(surface, self.attained[:, seed])
        while len(members) < SIZE:
            bill[:, :-1] &= self.nodes != self.nodes[members[-1]]
            more = (np.maximum(surface[:, None] - self.attained, 0.0) @ levels.sizes).mean(axis=0) * self.works
            more[members] = 0.0
            price = (self.seconds * bill).sum(axis=1)
            index = int(np.argmax(more / price))
            if more[index] / price[index] <= gain / seconds:
                break
            gain, seconds = gain + float(more[index]), seconds + float(price[index])
            members.append(index)
            surface = np.minimum(surface, self.attained[:, index])
        return gain / seconds

    def _seeds(self) -> Sequence[int]:
        """The candidate with the best rate alone, and those with the most gain behind each stage still to be paid."""
        rate = self.gain / (self.seconds * self.owed).sum(axis=1)
        behind: dict[tuple[int, int], int] = {}
        for index in np.argsort(-self.gain, kind="stable"):
            stages = np.flatnonzero(self.owed[index, :-1])
            first = (int(stages[0]), int(self.nodes[index, stages[0]])) if len(stages) else (-1, 0)
            behind.setdefault(first, int(index))
        order = sorted(behind.values(), key=lambda index: -rate[index])
        return list(dict.fromkeys([int(np.argmax(rate)), *order[:SEEDS]]))
