"""Our engine on a recorded table."""

from collections.abc import Sequence

import numpy as np

from replay.engine import Ground, Next, Seen, State
from replay.header import ACCURACY
from search.strategy import ground as strategy
from search.strategy.ground import Array
from search.strategy.planner import Planner

PATIENCE = 0.05
"""A trial is not measured when that gains less per second than this share of what was promised of it."""


class Ours:
    """The planner of `search.strategy`. It does not have a latency measured that it knows well enough."""

    def __init__(self, ground: Ground, seed: int, *, reuse: bool = True) -> None:
        names = list(ground.knobs)
        self._ground = ground
        self._names = list(ground.objectives)
        ordered = [bool(ground.hints.get(name, {}).get("ordered")) for name in names]
        base = strategy.Ground(
            codes=ground.codes,
            positions=[
                strategy.evenly(ground.knobs[name]) if one else None for name, one in zip(names, ordered, strict=True)
            ],
            stages=[tuple(map(names.index, ground.stage_knobs.get(stage, ()))) for stage in ground.stages],
        )
        reference = np.array([self._loss(name, ground.reference[name]) for name in self._names])
        shares = [k for k, name in enumerate(self._names) if name == ACCURACY]
        self._planner = Planner(base, reference, seed=seed, shares=shares, reuse=reuse)
        self._floor = np.array(
            [np.log1p(ground.floor[name]) if name in ground.logarithmic else ground.floor[name] for name in self._names]
        )
        self._measure_s: list[float] = []
        self._front: dict[int, Array] = {}

    def ask(self) -> int | None:
        return self._planner.suggest()

    def proceed(self, seen: Seen) -> Next:
        if len(seen.right) < self._ground.items:
            return self._ground.items - len(seen.right)
        known = self._known(seen)
        if known is None or not self._measure_s:
            return "measure"
        mean, deviation = known
        if self._planner.gain(mean, deviation) < PATIENCE * self._planner.rate * float(np.mean(self._measure_s)):
            return "stop"
        return "measure" if np.any(deviation > self._floor) else "stop"

    def tell(self, seen: Seen, state: State, reason: str) -> None:  # noqa: ARG002
        paid = {index: seen.costs.get(stage, 0.0) for index, stage in enumerate(self._ground.stages)}
        use = sum(seen.costs.get(name, 0.0) for name in ("load", "items", "measure"))
        self._planner.costs.learn(seen.row, paid, use or None)
        if seen.costs.get("measure", 0.0) > 0:
            self._measure_s.append(seen.costs["measure"])
        values = {k: self._loss(name, seen.values[name]) for k, name in enumerate(self._names) if name in seen.values}
        self._planner.learn(seen.row, values)
        known = self._known(seen) if state in ("ok", "stopped") else None
        if state == "ok" or (known and np.all(known[1] <= self._floor)):
            mean = known[0] if known else np.array([values[k] for k in range(len(self._names))])
            self._planner.accept(seen.row, mean.tolist())
            self._front[seen.row] = mean
        self._planner.end(seen.row, failed=state in ("failed", "infeasible"))

    def returned(self) -> Sequence[int]:
        rows = list(self._front)
        values = np.array(list(self._front.values()))
        return [
            row
            for row, mine in zip(rows, values, strict=True)
            if not (np.all(values <= mine, axis=1) & np.any(values < mine, axis=1)).any()
        ]

    def _known(self, seen: Seen) -> tuple[Array, Array] | None:
        """(objectives,) mean and deviation: what was seen, else what was expected; null in the first design."""
        expected = self._planner.expects(seen.row)
        if expected is None:
            return None
        mean, deviation = expected[0].copy(), expected[1].copy()
        for k, name in enumerate(self._names):
            if name in seen.values:
                mean[k], deviation[k] = self._loss(name, seen.values[name]), 0.0
        return mean, deviation

    def _loss(self, name: str, value: float) -> float:
        sign = -1.0 if self._ground.objectives[name] == "max" else 1.0
        return sign * float(np.log(value) if name in self._ground.logarithmic else value)
