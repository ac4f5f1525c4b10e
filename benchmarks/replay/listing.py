"""The engines that choose nothing: candidates in a given order, each measured and scored in full."""

from collections.abc import Sequence

import numpy as np

from objectives.pareto import Array, dominates
from replay.charging import Rule
from replay.engine import Engine, Ground, Next, Seen, State


class Listing:
    """Tries the candidates in the order given, none twice, and returns the non-dominated ones."""

    def __init__(self, ground: Ground, rows: Sequence[int]) -> None:
        self._ground = ground
        self._rows = iter(rows)
        self._front: dict[int, Array] = {}

    def ask(self) -> int | None:
        return next(self._rows, None)

    def proceed(self, seen: Seen) -> Next:
        return "measure" if self._ground.measured - seen.values.keys() else self._ground.items

    def tell(self, seen: Seen, state: State, reason: str) -> None:  # noqa: ARG002
        if state != "ok":
            return
        signs = {"max": -1.0, "min": 1.0}
        mine = np.array([signs[way] * seen.values[name] for name, way in self._ground.objectives.items()])
        if not any(dominates(other, mine) for other in self._front.values()):
            self._front = {row: other for row, other in self._front.items() if not dominates(mine, other)}
            self._front[seen.row] = mine

    def returned(self) -> Sequence[int]:
        return list(self._front)


def exhaustive(ground: Ground, seed: int, rule: Rule) -> Engine:  # noqa: ARG001
    """All candidates as the table lists them."""
    return Listing(ground, range(len(ground.codes)))


def shuffled(ground: Ground, seed: int, rule: Rule) -> Engine:  # noqa: ARG001
    """All candidates in random order: the baseline that any search has to beat."""
    return Listing(ground, np.random.default_rng(seed).permutation(len(ground.codes)).tolist())
