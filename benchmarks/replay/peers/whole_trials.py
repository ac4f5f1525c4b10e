"""What every peer that evaluates whole trials shares: memory, objectives to minimise, and the front that it returns."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from replay.engine import Ground, Next, Seen, State
from replay.peers.choices import Choices

Losses = tuple[float, ...]
REPEATS = 20  # suggestions in a row that may be candidates tried before, until a new one is put to the peer


class Optimizer(Protocol):
    """A package's own way of suggesting a candidate and of hearing what became of it."""

    def suggest(self, choices: Choices) -> int:
        """The candidate of the next trial."""
        ...

    def take(self, choices: Choices, row: int) -> None:
        """Make this candidate the next trial, whatever the optimizer would have suggested."""
        ...

    def learn(self, losses: Losses | None) -> None:
        """The objectives of the latest trial, all to minimise; null when it could not be built or run."""
        ...


def losses(ground: Ground, values: dict[str, float]) -> Losses:
    """Objectives as a user who knows them would hand them over: to minimise, and in log where they compare by ratio."""
    signed = (
        (-1.0 if sense == "max" else 1.0)
        * (float(np.log(values[name])) if name in ground.logarithmic else values[name])
        for name, sense in ground.objectives.items()
    )
    return tuple(map(float, signed))


class WholeTrials:
    """An engine that measures each candidate and scores all its items, and lets a package choose the candidates.

    A candidate suggested again is answered from memory, as the FAQ of Optuna advises: that costs no trial, only the
    time of the suggestion. After ``REPEATS`` of them in a row a random new candidate is put to the package.
    """

    def __init__(self, ground: Ground, optimizer: Optimizer, seed: int) -> None:
        self._ground = ground
        self._optimizer = optimizer
        self._choices = Choices(ground, seed)
        self._random = np.random.default_rng(seed)
        self._memory: dict[int, Losses | None] = {}
        self._front: dict[int, Losses] = {}

    def ask(self) -> int | None:
        if len(self._memory) == len(self._choices):
            return None
        for _ in range(REPEATS):
            row = self._optimizer.suggest(self._choices)
            if not self._answer(row):
                return row
        row = int(self._random.choice([row for row in range(len(self._choices)) if row not in self._memory]))
        self._optimizer.take(self._choices, row)
        return row

    def proceed(self, seen: Seen) -> Next:
        if self._ground.measured - seen.values.keys():
            return "measure"
        return self._ground.items - len(seen.right)

    def tell(self, seen: Seen, state: State, reason: str) -> None:  # noqa: ARG002
        known = losses(self._ground, dict(seen.values)) if state == "ok" else None
        self._optimizer.learn(known)
        self._remember(seen.row, known)

    def returned(self) -> Sequence[int]:
        return list(self._front)

    def _answer(self, row: int) -> bool:
        """Tells the package again of a candidate that was tried before, if it was."""
        if row in self._memory:
            self._optimizer.learn(self._memory[row])
        return row in self._memory

    def _remember(self, row: int, known: Losses | None) -> None:
        self._memory[row] = known
        if known is not None and not any(dominates(other, known) for other in self._front.values()):
            self._front = {row: other for row, other in self._front.items() if not dominates(known, other)}
            self._front[row] = known


def dominates(one: Losses, other: Losses) -> bool:
    """Nowhere worse and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
