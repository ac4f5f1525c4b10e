"""The phase ``write``: a recording becomes a table folder, as search engines are replayed on it.

Floors: of accuracy one item, since greedy answers repeat exactly; of size 1 %, which is what a search counts at least
in a figure compared by ratio; of latency what repeated passes show (:func:`record.latency.repeatability`).
Stages that a candidate does not have cost it nothing; those behind one that failed are null. A candidate is ``failed``
where a stage or the runtime on the host refused it, ``infeasible`` where the device could not run it.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from hardware_profiles.agent.facts import facts
from record.fitness import fitness
from record.journal import Journal, open_recording
from record.latency import LEAST_FLOOR, Pooled, pooled, repeatability
from record.measuring import recorded_pools
from record.settings import OBJECTIVES, Setup
from spaces.axes import Value
from spaces.errors import BadInput
from spaces.space import grid

SCHEMA = "vlmfront.table/1"
RELATIVE = ("latency_ms", "size_mb")
_MODEL = "model.path"
_MEGABYTE = 1e6
_LEAST_PASSES = 2


class Recording:
    """What is on record of a setup in a folder, joined."""

    def __init__(self, setup: Setup, out: Path) -> None:
        folder = open_recording(out, setup.identity)
        self.setup = setup
        self.built = {one["key"]: one for one in Journal(folder / "stages.jsonl").records}
        self.stages = stages(setup)
        by_id = {row["candidate"]: row for row in Journal(folder / "rows.jsonl").records}
        self.rows = [by_id[one.id] for one in setup.space.candidates() if one.id in by_id]
        measured = defaultdict[str, list[dict[str, Any]]](list)
        for record in Journal(folder / "latency.jsonl").records:
            measured[record["candidate"]].append(record)
        self.latency: dict[str, Pooled] = {}
        for pool in recorded_pools(setup, out, self.rows):
            found = pooled([record for one in pool for record in measured[one]])
            self.latency |= dict.fromkeys(pool, found)
        self.pools = list({id(one): one for one in self.latency.values()}.values())

    @property
    def complete(self) -> bool:
        """Whether every candidate is on record."""
        return len(self.rows) == self.setup.space.size

    @property
    def timed(self) -> bool:
        """Whether every pool was measured often enough to say how well that repeats."""
        return bool(self.pools) and all(len(one.samples) >= _LEAST_PASSES or one.fault for one in self.pools)


def write(setup: Setup, out: Path, target: Path, *, partial: bool) -> dict[str, Any]:
    """Write the table in ``out`` to ``target``; how fit it is for judging.

    Raises:
        BadInput: something is still to be recorded, and the table is not to be ``partial``.
    """
    recording = Recording(setup, out)
    if not partial and not (recording.complete and recording.timed):
        lacks = "rows" if not recording.complete else f"{_LEAST_PASSES} passes of latency"
        raise BadInput(f"{out}: the recording has not all its {lacks} yet; go on with it, or write --partial.")
    objectives = {name: way for name, way in OBJECTIVES.items() if name != "latency_ms" or recording.timed}
    columns = columns_of(recording, objectives)
    header = header_of(recording, objectives)
    target.mkdir(parents=True, exist_ok=True)
    (target / "table.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table(columns), target / "trials.parquet", compression="zstd")
    for name, split in (("answers", "search"), ("answers_holdout", "holdout")):
        np.save(target / f"{name}.npy", answers(recording.rows, split, setup.recipe.items))
    return {"rows": len(recording.rows), "objectives": list(objectives)} | _fitness(recording, header, columns)


def header_of(recording: Recording, objectives: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``table.json``."""
    setup = recording.setup
    floors = {"accuracy": 1 / setup.recipe.items, "size_mb": LEAST_FLOOR}
    if "latency_ms" in objectives:
        floors["latency_ms"] = repeatability([one.samples for one in recording.pools]) or LEAST_FLOOR
    known = facts()
    varying = [knob.name for knob in setup.knobs]
    return {
        "schema": SCHEMA,
        "task": setup.task.name,
        "device": f"{known.cpu}, one thread",
        "items": setup.recipe.items,
        "knobs": {knob.name: [shown(knob.name, value) for value in grid(knob)] for knob in setup.knobs},
        "stages": list(recording.stages),
        "stage_knobs": {stage: list(names) for stage, names in recording.stages.items()},
        "objectives": dict(objectives),
        "reference": {name: setup.recipe.reference[name] for name in objectives},
        "floor": {name: floors[name] for name in objectives},
        "hints": {
            knob: {name: hint for name, hint in hints.items() if name == "ordered" or name in objectives}
            for knob, hints in setup.recipe.hints.items()
            if knob in varying
        },
    }


def stages(setup: Setup) -> dict[str, tuple[str, ...]]:
    """The stages of the space in order, and the varying knobs that each adds; what is bound later belongs to none."""
    tree = setup.tree(setup.recipe.seed)
    built = {stage.axis for candidate in setup.space.candidates() for stage in tree.plan(candidate)}
    varying = [knob.name for knob in setup.knobs]
    return {
        axis.name: tuple(
            name
            for name in varying
            if name.startswith(f"{axis.name}.") and not axis.domains[name.split(".", 1)[1]].bound
        )
        for axis in setup.space.axes
        if axis.name in built
    }


def columns_of(recording: Recording, objectives: Mapping[str, str]) -> dict[str, list[Any]]:
    """The columns of ``trials.parquet``, a cell for each row."""
    cells = [_cells(recording, row, objectives) for row in recording.rows]
    return {name: [row[name] for row in cells] for name in cells[0]} if cells else {}


def _cells(recording: Recording, row: Mapping[str, Any], objectives: Mapping[str, str]) -> dict[str, Any]:
    setup, values = recording.setup, row["values"]
    latency = recording.latency.get(row["candidate"], Pooled(samples=(), seconds=()))
    state = "infeasible" if row["state"] == "ok" and latency.fault else row["state"]
    ok = state == "ok"
    cells: dict[str, Any] = {"candidate": row["candidate"], "deployed": row.get("deployed", "")}
    for knob in setup.knobs:
        value = shown(knob.name, values[knob.name]) if knob.name in values else None
        as_float = value is not None and any(isinstance(one, float) for one in grid(knob))
        cells[knob.name] = float(value) if as_float else value  # type: ignore[arg-type]
    cells |= {"state": state, "reason": latency.fault or row["reason"]}
    paid = {recording.built[key]["stage"]: float(recording.built[key]["cpu_s"]) for key in row["stages"]}
    behind = row["state"] == "failed" and "load_s" not in row
    last = list(paid)[-1] if paid else ""
    names = list(recording.stages)
    for place, stage in enumerate(names):
        never = behind and last in names and place > names.index(last)
        cells[f"cost.{stage}"] = None if never else paid.get(stage, 0.0)
    cells |= {"cost.load": row.get("load_s"), "cost.item": row.get("item_s")}
    cells["cost.measure"] = float(np.median(latency.seconds)) if latency.seconds else None
    found = {
        "accuracy": _right(row, "search") / setup.recipe.items if ok else None,
        "latency_ms": latency.latency_ms if ok and latency.samples else None,
        "size_mb": row["size_bytes"] / _MEGABYTE if ok else None,
    }
    cells |= {name: found[name] for name in objectives}
    return cells | {"latency_samples": list(latency.samples)}


def answers(rows: Sequence[Mapping[str, Any]], split: str, items: int) -> npt.NDArray[np.uint8]:
    """Packed right or wrong of each item, (rows, ceil(items / 8)); zeros where a row has none."""
    wide = -(-items // 8)
    packed = [bytes.fromhex(row.get(split, "")).ljust(wide, b"\0") for row in rows]
    return np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(rows), wide)


def shown(knob: str, value: Value) -> Value:
    """A knob's value in the table: a model's folder by its name."""
    return Path(str(value)).name if knob == _MODEL else value


def _right(row: Mapping[str, Any], split: str) -> int:
    return int(np.unpackbits(np.frombuffer(bytes.fromhex(row[split]), dtype=np.uint8)).sum())


def _fitness(recording: Recording, header: Mapping[str, Any], columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    knobs: Mapping[str, list[Value]] = header["knobs"]
    codes = {
        name: np.array([-1 if cell is None else values.index(cell) for cell in columns[name]], dtype=np.int16)
        for name, values in knobs.items()
    }
    values = {name: np.array(columns[name], dtype=np.float64) for name in header["objectives"]}
    return fitness(
        codes,
        {knob: _under(recording.setup, knob) & set(knobs) for knob in knobs},
        values,
        header["floor"],
        RELATIVE,
        header["hints"],
        _larger(codes.get(_MODEL, np.zeros(len(recording.rows), dtype=np.int16)), values["size_mb"]),
    )


def _under(setup: Setup, knob: str) -> set[str]:
    """The knobs that count only for some values of this one, directly or through others."""
    found: set[str] = set()
    for other in setup.space.knobs:  # each comes after those that its condition names
        if {knob, *found} & set(other.others):
            found.add(other.name)
    return found


def _larger(models: npt.NDArray[np.int16], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The rows of the larger half of the models, by the median size of their bundles."""
    size = {int(model): float(np.nanmedian(sizes[models == model])) for model in np.unique(models)}
    middle = float(np.median(list(size.values())))
    return np.array([size[int(model)] >= middle for model in models])
