"""Runs one engine on one recorded table, and keeps what it had paid when it would have returned what."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from replay.charging import Ledger, Rule
from replay.engine import Engine, Seen, State
from replay.header import ACCURACY
from replay.table import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """The end of a trial.

    Attributes:
        row: the candidate.
        state: how the trial ended.
        items: how many items it scored.
        charged: seconds charged by the rule since the replay began, this trial included.
        suggesting: CPU seconds of the engine's calls since the replay began.
        returned: the rows that the engine would return now; null where they are as after the trial before.
    """

    row: int
    state: State
    items: int
    charged: float
    suggesting: float
    returned: tuple[int, ...] | None

    @property
    def cost(self) -> float:
        """Seconds since the replay began: what was charged and the engine's own time."""
        return self.charged + self.suggesting


@dataclass
class Trajectory:
    """One replay: its events in order, and the cap on cost that it ran under."""

    cap: float
    events: list[Event] = field(default_factory=list)

    @property
    def changes(self) -> list[tuple[float, tuple[int, ...]]]:
        """What the engine would have returned, and the cost from which it would, whenever that changed."""
        return [(event.cost, event.returned) for event in self.events if event.returned is not None]


def replay(
    table: Table,
    engine: Engine,
    rule: Rule,
    seed: int,
    cap: float,
    enough: Callable[[Sequence[int]], bool] | None = None,
) -> Trajectory:
    """Lets an engine search a table until its cost reaches ``cap``, it has nothing left to try, or it has ``enough``.

    Items come in an order drawn from the seed, the same for every trial and engine. The engine's time is charged as
    the CPU time of ask, proceed and tell; what it would return is asked after each trial, for the score only.

    Raises:
        ValueError: for an engine that breaks the Protocol.
    """
    return _Replay(table, engine, rule, seed).run(Trajectory(cap), enough)


class _Replay:
    def __init__(self, table: Table, engine: Engine, rule: Rule, seed: int) -> None:
        self._table = table
        self._engine = engine
        self._ledger = Ledger(table, rule)
        self._order = np.random.default_rng(seed).permutation(table.items)
        self._suggesting = 0.0
        self._tried: set[int] = set()

    def run(self, trajectory: Trajectory, enough: Callable[[Sequence[int]], bool] | None) -> Trajectory:
        returned: tuple[int, ...] = ()
        while self._ledger.total + self._suggesting < trajectory.cap:
            row = self._timed(self._engine.ask)
            if row is None:
                break
            state, items = self._trial(int(row))
            now = self._returned()
            changed = now != returned
            returned = now
            total = self._ledger.total
            event = Event(int(row), state, items, total, self._suggesting, now if changed else None)
            trajectory.events.append(event)
            if changed and enough and enough(now):
                break
        return trajectory

    def _trial(self, row: int) -> tuple[State, int]:
        table, ledger = self._table, self._ledger
        if not 0 <= row < len(table):
            raise ValueError(f"row {row} is not among the table's {len(table)} candidates")
        trial = _Trial(table, row, table.answers[row][self._order], ledger.build(row))
        state: State = str(table.state[row])  # type: ignore[assignment]
        if state == "ok":
            self._tried.add(row)
            state = self._run(trial)
        seen = trial.seen()
        self._timed(lambda: self._engine.tell(seen, state, str(table.reason[row])))
        return state, trial.scored

    def _run(self, trial: "_Trial") -> State:
        while not trial.whole:
            seen = trial.seen()
            step = self._timed(lambda seen=seen: self._engine.proceed(seen))  # type: ignore[misc]
            if step == "stop":
                return "stopped"
            trial.advance(step, self._ledger)
        return "ok"

    def _returned(self) -> tuple[int, ...]:
        rows = tuple(sorted({int(row) for row in self._engine.returned()}))
        if not self._tried.issuperset(rows):
            raise ValueError("an engine returns candidates that it tried and that can be built")
        return rows

    def _timed(self, call: Callable[[], T]) -> T:
        start = time.process_time()
        result = call()
        self._suggesting += time.process_time() - start
        return result


class _Trial:
    """One candidate on its way from built to measured and scored in full."""

    def __init__(self, table: Table, row: int, right: npt.NDArray[np.bool_], costs: dict[str, float]) -> None:
        self._table = table
        self._row = row
        self._right = right
        values = table.values[row].tolist() if table.ok[row] else []
        self._values: dict[str, float] = dict(zip(table.objectives, values, strict=False))
        self._costs = costs | {"load": 0.0, "items": 0.0, "measure": 0.0}
        self._measured = not table.measured
        self._loaded = False
        self.scored = 0

    @property
    def whole(self) -> bool:
        return self._measured and self.scored == len(self._right)

    def advance(self, step: str | int, ledger: Ledger) -> None:
        if not self._loaded:
            self._costs["load"] = ledger.load(self._row)
            self._loaded = True
        if step == "measure" and not self._measured:
            self._costs["measure"] = ledger.measure(self._row)
            self._measured = True
        elif not isinstance(step, str) and step > 0 and self.scored < len(self._right):
            count = min(int(step), len(self._right) - self.scored)
            self._costs["items"] += ledger.items(self._row, count)
            self.scored += count
        else:
            raise ValueError(
                f"{step!r}: a trial is measured once, and scores a number of items above 0 while any is left"
            )

    def seen(self) -> Seen:
        return Seen(
            row=self._row,
            values={name: value for name, value in self._values.items() if self._known(name)},
            right=self._right[: self.scored],
            costs=dict(self._costs),
        )

    def _known(self, name: str) -> bool:
        if name == ACCURACY:
            return self.scored == len(self._right)
        return self._measured or name not in self._table.measured
