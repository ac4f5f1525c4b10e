"""Our engine on a recorded table."""

from collections.abc import Sequence

import numpy as np

from replay.engine import Ground, Next, Seen, State
from search.strategy import ground as strategy
from search.strategy.planner import Planner

ACCURACY = "accuracy"


class Ours:
    """The planner of `search.strategy` behind the Protocol of a replay."""

    def __init__(self, ground: Ground, seed: int, *, reuse: bool = True) -> None:
        names = list(ground.knobs)
        hinted = [bool(ground.hints.get(name, {}).get("ordered")) for name in names]
        self._ground = ground
        self._names = list(ground.objectives)
        base = strategy.Ground(
            codes=ground.codes,
            positions=[
                strategy.evenly(ground.knobs[name]) if ordered else None for name, ordered in zip(names, hinted, strict=True)
            ],
            stages=[tuple(names.index(knob) for knob in ground.stage_knobs.get(stage, ())) for stage in ground.stages],
        )
        reference = np.array([self._loss(name, ground.reference[name]) for name in self._names])
        shares = [k for k, name in enumerate(self._names) if name == ACCURACY]
        self._planner = Planner(base, reference, seed=seed, shares=shares, reuse=reuse)
        self._front: dict[int, list[float]] = {}

    def ask(self) -> int | None:
        return self._planner.suggest()

    def proceed(self, seen: Seen) -> Next:
        if self._ground.measured and not self._ground.measured <= seen.values.keys():
            return "measure"
        return self._ground.items - len(seen.right)

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        paid = {index: seen.costs.get(stage, 0.0) for index, stage in enumerate(self._ground.stages)}
        use = sum(seen.costs.get(name, 0.0) for name in ("load", "items", "measure"))
        self._planner.costs.learn(seen.row, paid, use if state == "ok" else None)
        values = {k: self._loss(name, seen.values[name]) for k, name in enumerate(self._names) if name in seen.values}
        self._planner.learn(seen.row, values, full=state == "ok")
        self._planner.end(seen.row, failed=state in ("failed", "infeasible"))
        if state == "ok":
            self._front[seen.row] = [values[k] for k in range(len(self._names))]

    def returned(self) -> Sequence[int]:
        rows = list(self._front)
        values = np.array([self._front[row] for row in rows])
        return [row for row, mine in zip(rows, values, strict=True) if not (np.all(values <= mine, axis=1) & np.any(values < mine, axis=1)).any()]

    def _loss(self, name: str, value: float) -> float:
        sign = -1.0 if self._ground.objectives[name] == "max" else 1.0
        return sign * float(np.log(value) if name in self._ground.logarithmic else value)
