"""A recorded table: every candidate of a joint space, what it cost and what it turned out to be worth."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from replay import header as headers
from replay.columns import Columns, packed
from replay.engine import Ground
from replay.header import ACCURACY, TRIALS, Header, Value, text

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint8]

ANSWERS = "answers.npy"
HOLDOUT = "answers_holdout.npy"
STATES = ("ok", "infeasible", "failed")


@dataclass(frozen=True, kw_only=True)
class Table(Header):
    """A header, and for each candidate (row) what was recorded.

    Attributes:
        codes: (rows, knobs) the position of each knob's value among its values; -1 where the knob does not count.
        state: (rows,) ``ok``, ``infeasible`` or ``failed``.
        reason: (rows,) why it is not ok.
        costs: (rows, stages) seconds of each stage for this candidate given its input; 0 where it was not reached.
        load_s: (rows,) seconds to load the bundle; like those below 0 where the state is not ok.
        item_s: (rows,) seconds per scored item.
        measure_s: (rows,) seconds of one measurement on the device.
        values: (rows, objectives) at full fidelity; not-a-number where the state is not ok.
        packed: (rows, ceil(items / 8)) right or wrong per item, as `numpy.packbits`; null without items.
        packed_holdout: likewise on other items; null where not recorded.
        latency_samples: (rows,) lists of milliseconds; null where not recorded.
    """

    codes: npt.NDArray[np.int16]
    state: npt.NDArray[np.str_]
    reason: npt.NDArray[np.str_]
    costs: Array
    load_s: Array
    item_s: Array
    measure_s: Array
    values: Array
    packed: Bits | None = None
    packed_holdout: Bits | None = None
    latency_samples: Sequence[Sequence[float]] | None = None

    @classmethod
    def load(cls, folder: Path) -> "Table":
        """Reads and checks a table's folder.

        Raises:
            BadInput: naming the file, the field or column, and the row (from 0).
        """
        header = headers.read(folder)
        columns = Columns(folder)
        state = columns.texts("state", STATES)
        ok = state == "ok"
        codes = [columns.codes(knob, listed) for knob, listed in header.knobs.items()]
        unused = np.zeros(columns.rows)
        table = cls(
            **{field.name: getattr(header, field.name) for field in fields(header)},
            codes=np.stack(codes, axis=1),
            state=state,
            reason=columns.texts("reason") if "reason" in columns else np.full(columns.rows, ""),
            costs=_stacked([columns.seconds(f"cost.{stage}", ok) for stage in header.stages], columns.rows),
            load_s=ok * columns.seconds("cost.load", ok) if header.items or header.measured else unused,
            item_s=ok * columns.seconds("cost.item", ok) if header.items else unused,
            measure_s=ok * columns.seconds("cost.measure", ok) if header.measured else unused,
            values=_stacked([_objective(columns, name, ok, header) for name in header.objectives], columns.rows),
            packed=packed(folder / ANSWERS, columns.rows, header.items) if header.items else None,
            packed_holdout=_optional(folder / HOLDOUT, columns.rows, header.holdout_items),
            latency_samples=columns.samples("latency_samples") if "latency_samples" in columns else None,
        )
        _check_rows(table, columns)
        return table

    def save(self, folder: Path) -> None:
        """Writes the table as `load` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        headers.write(self, folder)
        columns: dict[str, object] = {}
        for k, (knob, listed) in enumerate(self.knobs.items()):
            # A Parquet column has one type: where the values have several, it holds them as text.
            same = len({type(value) for value in listed}) == 1
            cells = [value if same else text(value) for value in listed]
            columns[knob] = [None if code < 0 else cells[code] for code in self.codes[:, k]]
        columns |= {"state": self.state.tolist(), "reason": self.reason.tolist()}
        columns |= {f"cost.{stage}": self.costs[:, k] for k, stage in enumerate(self.stages)}
        columns |= {"cost.load": self.load_s, "cost.item": self.item_s, "cost.measure": self.measure_s}
        for k, name in enumerate(self.objectives):
            columns[name] = [None if np.isnan(value) else value for value in self.values[:, k].tolist()]
        if self.latency_samples is not None:
            columns["latency_samples"] = [list(samples) for samples in self.latency_samples]
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / TRIALS, compression="zstd")
        for name, bits in ((ANSWERS, self.packed), (HOLDOUT, self.packed_holdout)):
            if bits is not None:
                np.save(folder / name, bits)

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def ok(self) -> npt.NDArray[np.bool_]:
        """(rows,) which candidates can be built and run."""
        return np.asarray(self.state == "ok")

    @cached_property
    def answers(self) -> npt.NDArray[np.bool_]:
        """(rows, items) whether each item was answered rightly; no columns without items."""
        return _unpacked(self.packed, len(self), self.items)

    @cached_property
    def holdout(self) -> npt.NDArray[np.bool_]:
        """(rows, holdout items) likewise on the holdout items; no columns where not recorded."""
        return _unpacked(self.packed_holdout, len(self), self.holdout_items)

    @cached_property
    def prefixes(self) -> npt.NDArray[np.intp]:
        """(rows, stages) a number for what is built by each stage: equal where all knobs up to the stage are."""
        names = list(self.knobs)
        found = np.zeros((len(self), len(self.stages)), dtype=np.intp)
        columns: list[int] = []
        for k, stage in enumerate(self.stages):
            columns += [names.index(knob) for knob in self.stage_knobs[stage]]
            found[:, k] = (
                np.unique(self.codes[:, columns], axis=0, return_inverse=True)[1].reshape(-1) if columns else 0
            )
        return found

    def ground(self) -> Ground:
        """What an engine may know before it has tried anything."""
        codes = self.codes.copy()
        codes.setflags(write=False)
        return Ground(
            knobs=self.knobs,
            codes=codes,
            stages=self.stages,
            stage_knobs=self.stage_knobs,
            objectives=self.objectives,
            reference=self.reference,
            floor=self.floor,
            logarithmic=self.logarithmic,
            measured=self.measured,
            hints=self.hints,
            items=self.items,
        )

    def without_hints(self) -> "Table":
        """The same table, of whose knobs nothing is known beforehand."""
        return replace(self, hints={})

    def renamed(self, seed: int) -> "Table":
        """The same table under other names and in another order, both from the seed.

        Knobs, their values and stages get names without meaning; knobs, values and rows are listed in another order.
        The order of stages stays, and the values of a knob that a hint calls ordered keep theirs and their numbers.
        """
        rng = np.random.default_rng(seed)
        names = list(self.knobs)
        columns = rng.permutation(len(names))
        called = {names[old]: f"knob{new}" for new, old in enumerate(columns)}
        rows = rng.permutation(len(self))
        codes = self.codes[np.ix_(rows, columns)]
        knobs: dict[str, tuple[Value, ...]] = {}
        for new, old in enumerate(columns):
            values = self.knobs[names[old]]
            if self.hints.get(names[old], {}).get("ordered"):
                plain = not any(isinstance(value, str) for value in values)
                knobs[f"knob{new}"] = values if plain else tuple(f"value{code}" for code in range(len(values)))
                continue
            order = rng.permutation(len(values))  # the new code of each old one
            knobs[f"knob{new}"] = tuple(f"value{code}" for code in range(len(values)))
            codes[:, new] = np.append(order, -1)[codes[:, new]]
        stages = {stage: f"stage{k}" for k, stage in enumerate(self.stages)}
        inside = {stages[stage]: [called[knob] for knob in inside] for stage, inside in self.stage_knobs.items()}
        recorded: dict[str, Any] = {}
        for field in fields(self):
            if field.name not in {inherited.name for inherited in fields(Header)}:
                column = getattr(self, field.name)
                recorded[field.name] = column[rows] if isinstance(column, np.ndarray) else column
        if self.latency_samples is not None:
            recorded["latency_samples"] = [self.latency_samples[row] for row in rows]
        return replace(
            self,
            **recorded | {"codes": codes},
            knobs=knobs,
            stages=tuple(stages.values()),
            stage_knobs={stage: tuple(rng.permutation(listed).tolist()) for stage, listed in inside.items()},
            hints=dict(sorted((called[knob], hint) for knob, hint in self.hints.items())),
        )


def _unpacked(bits: Bits | None, rows: int, items: int) -> npt.NDArray[np.bool_]:
    if bits is None:
        return np.zeros((rows, 0), dtype=np.bool_)
    return np.unpackbits(bits, axis=1, count=items).astype(np.bool_)


def _stacked(columns: Sequence[Array], rows: int) -> Array:
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0))


def _optional(path: Path, rows: int, items: int) -> Bits | None:
    return packed(path, rows, items) if path.exists() else None


def _objective(columns: Columns, name: str, ok: npt.NDArray[np.bool_], header: Header) -> Array:
    found = columns.numbers(name)
    for row in np.flatnonzero(ok):
        if not np.isfinite(found[row]):
            raise columns.bad(name, int(row), "is no finite number though the state is ok")
        if name in header.logarithmic and found[row] <= 0:
            raise columns.bad(name, int(row), f"{found[row]} is not above 0, though the objective is compared by ratio")
    return np.where(ok, found, np.nan)


def _check_rows(table: Table, columns: Columns) -> None:
    _, first = np.unique(table.codes, axis=0, return_index=True)
    if len(first) < len(table):
        row = int(np.setdiff1d(np.arange(len(table)), first)[0])
        raise columns.bad(next(iter(table.knobs)), row, "the candidate was listed before; list each once")
    if table.items:
        said = table.values[:, list(table.objectives).index(ACCURACY)]
        off = np.flatnonzero(table.ok & (np.abs(said - table.answers.mean(axis=1)) > 0.5 / table.items))
        if len(off):
            shown = f"{said[off[0]]} is not the mean of its answers, {table.answers[off[0]].mean()}"
            raise columns.bad(ACCURACY, int(off[0]), shown)
