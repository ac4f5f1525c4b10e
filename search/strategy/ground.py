"""The ground that a strategy searches: candidates as codes of knob values, and the stages that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The candidates there are to choose from.

    Attributes:
        codes: (candidates, knobs) the code of each knob's value; -1 where the knob does not count.
        positions: for each knob, the place of each value on 0..1 where its values are ordered; null where they are not.
        stages: for each stage in the order of building, the knobs that it adds, by column of ``codes``.
    """

    codes: Codes
    positions: Sequence[Array | None]
    stages: Sequence[tuple[int, ...]]

    @cached_property
    def levels(self) -> npt.NDArray[np.int64]:
        """(knobs,) how many values each knob has."""
        return np.asarray(np.maximum(self.codes.max(axis=0, initial=-1) + 1, 1), dtype=np.int64)

    @cached_property
    def prefixes(self) -> npt.NDArray[np.int64]:
        """(candidates, stages) which node of the stage tree each candidate passes through; numbered per stage."""
        return np.stack([self._node(index) for index in range(len(self.stages))], axis=1)

    def upto(self, stage: int) -> tuple[int, ...]:
        """The knobs that a stage and those before it read."""
        return tuple(knob for knobs in self.stages[: stage + 1] for knob in knobs)

    def distances(self, knob: int) -> Array:
        """(values + 1, values + 1) how far apart a knob's values are, 0..1; the last: it does not count."""
        count = int(self.levels[knob])
        positions = self.positions[knob]
        apart = np.ones((count + 1, count + 1))
        if positions is not None:
            apart[:count, :count] = np.abs(positions[:count, None] - positions[None, :count])
        np.fill_diagonal(apart, 0.0)
        return apart

    def _node(self, stage: int) -> npt.NDArray[np.int64]:
        knobs = self.upto(stage)
        if not knobs:
            return np.zeros(len(self.codes), dtype=np.int64)
        _, numbers = np.unique(self.codes[:, knobs], axis=0, return_inverse=True)
        return np.asarray(numbers, dtype=np.int64).reshape(-1)


def evenly(values: Sequence[object]) -> Array:
    """Places on 0..1 of ordered values: even steps, since a doubling of bits or steps counts like the next."""
    return np.linspace(0.0, 1.0, len(values)) if len(values) > 1 else np.zeros(len(values))
