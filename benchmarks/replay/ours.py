"""Our engine on a recorded table."""

from collections.abc import Sequence

import numpy as np

from replay.engine import Ground, Next, Seen, State
from search.strategy import ground as strategy
from search.strategy.planner import Planner

ACCURACY = "accuracy"
PATIENCE = 0.05
"""A trial is not measured when that gains less per second than this share of what was promised of it."""


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
        self._uses: list[list[float]] = []
        self._floor = np.array(
            [np.log1p(ground.floor[name]) if name in ground.logarithmic else ground.floor[name] for name in self._names]
        )

    def ask(self) -> int | None:
        return self._planner.suggest()

    def proceed(self, seen: Seen) -> Next:
        total, scored = self._ground.items, len(seen.right)
        if not np.isfinite(self._planner.expects(seen.row)[1]).all():  # the first design is looked at in full
            return total - scored if scored < total else "measure"
        if scored < total:
            return total - scored
        mean, deviation = self._known(seen)
        if self._planner.gain(mean, deviation) < PATIENCE * self._planner.rate * self._left_seconds(seen):
            return "stop"
        unsure = [k for k, name in enumerate(self._names) if name in self._ground.measured and deviation[k] > self._floor[k]]
        return "measure" if unsure else "stop"

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        paid = {index: seen.costs.get(stage, 0.0) for index, stage in enumerate(self._ground.stages)}
        self._uses.append([seen.costs["load"], seen.costs["items"] / max(1, len(seen.right)), seen.costs["measure"]])
        use = sum(seen.costs.get(name, 0.0) for name in ("load", "items", "measure"))
        self._planner.costs.learn(seen.row, paid, use if use else None)
        exact = {k: self._loss(name, seen.values[name]) for k, name in enumerate(self._names) if name in seen.values}
        if state in ("ok", "stopped"):
            scored, total = len(seen.right), self._ground.items
            share = (seen.right.sum() + 0.5) / (scored + 1) if scored else 0.5
            guess = {k: -share for k, name in enumerate(self._names) if name == ACCURACY and k not in exact and scored}
            variance = share * (1 - share) / max(scored, 1) * (1 - scored / total)
            self._planner.learn(seen.row, exact | guess, dict.fromkeys(guess, variance))
            mean, deviation = self._known(seen)
            if scored == total and np.all(deviation <= self._floor):
                self._planner.accept(seen.row, mean.tolist())
                self._front[seen.row] = mean.tolist()
        self._planner.end(seen.row, failed=state in ("failed", "infeasible"))

    def _known(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """(objectives,) mean and standard deviation of a trial, by what is expected and what was seen of it."""
        mean, deviation = (one.copy() for one in self._planner.expects(seen.row))
        for k, name in enumerate(self._names):
            if name in seen.values:
                mean[k], deviation[k] = self._loss(name, seen.values[name]), 0.0
            elif name == ACCURACY and len(seen.right):
                n, share = len(seen.right), (seen.right.sum() + 0.5) / (len(seen.right) + 1)
                variance = share * (1 - share) / n * (1 - n / self._ground.items)
                weight = variance / (variance + deviation[k] ** 2) if np.isfinite(deviation[k]) else 0.0
                mean[k] = weight * mean[k] - (1 - weight) * share
                deviation[k] = np.sqrt(variance * (1 - weight))
        return mean, deviation

    def _left_seconds(self, seen: Seen) -> float:
        """What the rest of a trial costs: the items that are left, and the measurement."""
        item = seen.costs["items"] / max(1, len(seen.right))
        measures = [use[2] for use in self._uses if use[2] > 0]
        measured = self._ground.measured <= seen.values.keys()
        return (self._ground.items - len(seen.right)) * item + (0.0 if measured else float(np.mean(measures or [0.0])))

    def returned(self) -> Sequence[int]:
        rows = list(self._front)
        values = np.array([self._front[row] for row in rows])
        return [row for row, mine in zip(rows, values, strict=True) if not (np.all(values <= mine, axis=1) & np.any(values < mine, axis=1)).any()]

    def _loss(self, name: str, value: float) -> float:
        sign = -1.0 if self._ground.objectives[name] == "max" else 1.0
        return sign * float(np.log(value) if name in self._ground.logarithmic else value)
