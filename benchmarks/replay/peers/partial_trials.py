"""What peers share that score a candidate on a share of the items first: items scored are their fidelity."""

from typing import Protocol

import numpy as np

from replay.engine import Ground, Next, Seen, State
from replay.header import ACCURACY
from replay.peers.whole_trials import Losses, Optimizer, WholeTrials, losses

LEVELS = 9  # of fidelity: a trial at level n scores n ninths of the items, so that a factor of 3 gives rungs 1, 3 and 9


class Racer(Optimizer, Protocol):
    """A package's own way of suggesting a candidate and of deciding how far it is scored.

    ``learn`` only hears of trials that could not be built or run.
    """

    def first(self) -> int:
        """The level up to which the latest trial is scored first."""
        ...

    def more(self, losses: Losses, level: int) -> int:
        """Hears the objectives at a level; the level to go on to, no higher than before to end the trial."""
        ...


class PartialTrials(WholeTrials):
    """An engine whose package ends trials before all items are scored, and may ask for them again to score more.

    Only a candidate scored in full before is answered from memory.
    """

    def __init__(self, ground: Ground, racer: Racer, seed: int) -> None:
        super().__init__(ground, racer, seed)
        self._racer = racer
        self._level = 0
        self._whole: dict[int, Seen] = {}

    def ask(self) -> int | None:
        row = super().ask()
        self._level = self._racer.first()
        return row

    def proceed(self, seen: Seen) -> Next:
        if self._ground.measured - seen.values.keys():
            return "measure"
        scored = len(seen.right)
        if scored == self._items(self._level):
            reached = self._level
            self._level = self._racer.more(self._losses(seen, reached), reached)
            if self._level <= reached:
                return "stop"
        return self._items(self._level) - scored

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        if state == "ok":
            self._whole[seen.row] = seen
            self._racer.more(self._losses(seen, LEVELS), LEVELS)
            self._remember(seen.row, self._losses(seen, LEVELS))
        elif state != "stopped":
            super().tell(seen, state, reason)

    def _answer(self, row: int) -> bool:
        if row not in self._whole:
            return super()._answer(row)
        reached, level = 0, self._racer.first()
        while level > reached:
            reached, level = level, self._racer.more(self._losses(self._whole[row], level), level)
        return True

    def _items(self, level: int) -> int:
        return -(-self._ground.items * level // LEVELS)

    def _losses(self, seen: Seen, level: int) -> Losses:
        """With the accuracy over the items scored up to a level."""
        values = dict(seen.values)
        if self._ground.items:
            values[ACCURACY] = float(np.mean(seen.right[: self._items(level)]))
        return losses(self._ground, values)
