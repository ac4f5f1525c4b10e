"""What a trial would newly cost: seconds per stage, learned from what was paid; nothing for what is paid already."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from search.strategy.ground import Array, Ground
from search.strategy.surrogate import Surrogate

_LEAST_S = 1e-3


class Costs:
    """Learns the logarithm of each stage's seconds from the knobs up to it; the last is the bundle's use."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground = ground
        self._stages = len(ground.stages)
        self.paid = [np.zeros(int(ground.prefixes[:, s].max()) + 1, dtype=bool) for s in range(self._stages)]
        every = tuple(range(ground.codes.shape[1]))
        knobs = [ground.upto(stage) for stage in range(self._stages)] + [every]
        self._models = [Surrogate(ground, one, seed + index) for index, one in enumerate(knobs)]
        self._seen: list[dict[int, float]] = [{} for _ in knobs]
        self._rows: list[list[int]] = [[] for _ in knobs]
        self._stale = [True] * len(knobs)
        self._seconds: list[Array] = [np.ones(len(ground.codes))] * len(knobs)

    def learn(self, row: int, seconds: Mapping[int, float], use: float | None) -> None:
        """A trial paid these seconds for these stages, and ``use`` for loading, scoring and measuring in full."""
        for stage, paid in seconds.items():
            self.paid[stage][self._ground.prefixes[row, stage]] = True
            if paid > 0:
                self._add(stage, row, paid)
        if use is not None and use > 0:
            self._add(self._stages, row, use)

    def seconds(self) -> Array:
        """(candidates, stages + 1) what each stage would cost if it had to be paid, and the use of the bundle."""
        for index, stale in enumerate(self._stale):
            if stale and self._rows[index]:
                values = np.log([self._seen[index][row] for row in self._rows[index]])
                self._models[index].observe(self._rows[index], values)
                mean, deviation = self._models[index].predict()
                self._seconds[index] = np.exp(mean + np.minimum(deviation**2, 1.0) / 2)
                self._stale[index] = False
        known = [float(np.mean(one)) for one, rows in zip(self._seconds, self._rows, strict=True) if rows]
        return np.stack(
            [
                one if rows else np.full(len(one), np.mean(known) if known else 1.0)
                for one, rows in zip(self._seconds, self._rows, strict=True)
            ],
            axis=1,
        )

    def owed(self) -> npt.NDArray[np.bool_]:
        """(candidates, stages + 1) which of these a candidate has still to pay."""
        stages = [~paid[self._ground.prefixes[:, stage]] for stage, paid in enumerate(self.paid)]
        return np.stack([*stages, np.ones(len(self._ground.codes), dtype=bool)], axis=1)

    def _add(self, index: int, row: int, seconds: float) -> None:
        if row not in self._seen[index]:
            self._rows[index].append(row)
        self._seen[index][row] = max(seconds, _LEAST_S)
        self._stale[index] = True
