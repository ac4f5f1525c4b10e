"""``table.json``: what a recorded table says of itself, checked."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from spaces.errors import BadInput

Value: TypeAlias = str | int | float | bool
Direction: TypeAlias = Literal["max", "min"]

FILE = "table.json"
TRIALS = "trials.parquet"
SCHEMA = "vlmfront.table/1"
ACCURACY = "accuracy"
_COLUMNS = {"state", "reason", "latency_samples"}
_BUILT = ("size",)
_BY_RATIO = ("latency", "size")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a table says of itself.

    Attributes:
        task: the task on which candidates were scored, in words.
        device: the device on which they were measured, in words.
        items: how many items score a candidate in full; 0 where no objective comes from answers.
        holdout_items: how many other items judge a candidate afterwards; as many as ``items`` unless the file says.
        knobs: name -> the values it can take; a candidate's code is the position in this list.
        stages: names in the order in which they are built.
        stage_knobs: stage -> the knobs it adds; a knob of no stage takes effect after the build.
        objectives: name -> ``max`` or ``min``. The one called accuracy is the mean over items of right answers.
        reference: objective -> the worst value that a user would accept.
        floor: objective -> the repeatability below which differences are noise; relative where ``logarithmic``.
        hints: knob -> what is known of it beforehand: ``ordered``, whether its values are listed in order, and per
            objective whether it goes ``up`` or ``down`` along that order.
    """

    task: str
    device: str
    items: int
    holdout_items: int
    knobs: Mapping[str, tuple[Value, ...]]
    stages: tuple[str, ...]
    stage_knobs: Mapping[str, tuple[str, ...]]
    objectives: Mapping[str, Direction]
    reference: Mapping[str, float]
    floor: Mapping[str, float]
    hints: Mapping[str, Mapping[str, bool | str]]

    @property
    def logarithmic(self) -> frozenset[str]:
        """The objectives that are compared by ratio: latency and size."""
        return frozenset(name for name in self.objectives if name.startswith(_BY_RATIO))

    @property
    def measured(self) -> frozenset[str]:
        """The objectives that need the device: all but accuracy, from answers, and size, known once built."""
        return frozenset(name for name in self.objectives if name != ACCURACY and not name.startswith(_BUILT))


def read(folder: Path) -> Header:
    """Reads and checks ``table.json``.

    Raises:
        BadInput: naming the file and the field.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give the folder of a recorded table") from error
    except ValueError as error:
        raise BadInput(f"{path}: is not JSON ({error})") from error
    return _Reader(path, content).header()


def write(header: Header, folder: Path) -> None:
    """Writes ``table.json`` as `read` takes it."""
    content = {"schema": SCHEMA} | {field.name: getattr(header, field.name) for field in fields(Header)}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class _Reader:
    def __init__(self, path: Path, content: object) -> None:
        self._path = path
        self._content = self._mapping(content, "the file")

    def header(self) -> Header:
        if self._content.get("schema") != SCHEMA:
            raise self._bad("schema", f"is {SCHEMA!r} in the tables that this version reads")
        knobs = {name: self._values(name, listed) for name, listed in self._field("knobs").items()}
        stages = self._names(self._content.get("stages"), "stages")
        objectives = self._objectives()
        for name in {*knobs, *objectives} & _COLUMNS | knobs.keys() & objectives.keys():
            raise self._bad("knobs", f"and objectives have names of their own in {TRIALS}: rename {name!r}")
        for stage in {"load", "item", "items", "measure"} & set(stages):
            raise self._bad("stages", f"has {stage!r}, which is a cost beside the stages: rename it")
        items = self._whole("items", 0)
        if (items > 0) != (ACCURACY in objectives):
            raise self._bad("items", f"is above 0 where {ACCURACY} is an objective, and only there")
        if objectives.get(ACCURACY) == "min":
            raise self._bad(f"objectives.{ACCURACY}", "is 'max': the share of items answered rightly")
        header = Header(
            task=self._text("task"),
            device=self._text("device"),
            items=items,
            holdout_items=self._whole("holdout_items", items),
            knobs=knobs,
            stages=stages,
            stage_knobs=self._stage_knobs(stages, knobs),
            objectives=objectives,
            reference=self._numbers("reference", objectives),
            floor=self._numbers("floor", objectives),
            hints=self._hints(knobs, objectives),
        )
        for name, floor in header.floor.items():
            if floor < 0:
                raise self._bad(f"floor.{name}", "is at least 0")
        for name in header.logarithmic:
            if header.reference[name] <= 0:
                raise self._bad(f"reference.{name}", "is above 0, for the objective is compared by ratio")
            if header.floor[name] >= 1:
                raise self._bad(f"floor.{name}", "is a share of the value, below 1, for it is compared by ratio")
        return header

    def _objectives(self) -> dict[str, Direction]:
        found: dict[str, Direction] = {}
        for name, direction in self._field("objectives").items():
            if direction not in ("max", "min"):
                raise self._bad(f"objectives.{name}", "is 'max' or 'min'")
            found[name] = direction
        return found

    def _values(self, knob: str, listed: object) -> tuple[Value, ...]:
        if not isinstance(listed, list) or not listed or not all(isinstance(v, str | int | float) for v in listed):
            raise self._bad(f"knobs.{knob}", "is a list of text, numbers or true and false")
        if len({text(value) for value in listed}) < len(listed):
            raise self._bad(f"knobs.{knob}", "lists a value twice")
        return tuple(listed)

    def _stage_knobs(self, stages: tuple[str, ...], knobs: Iterable[str]) -> dict[str, tuple[str, ...]]:
        listed = self._field("stage_knobs")
        if set(listed) - set(stages):
            raise self._bad("stage_knobs", f"names a stage that is not in stages: {min(set(listed) - set(stages))!r}")
        found = {stage: self._names(listed.get(stage, []), f"stage_knobs.{stage}") for stage in stages}
        seen: set[str] = set()
        for stage, names in found.items():
            for name in names:
                if name not in knobs or name in seen:
                    raise self._bad(f"stage_knobs.{stage}", f"has {name!r}: name a knob, each in one stage only")
                seen.add(name)
        return found

    def _hints(self, knobs: Iterable[str], objectives: Iterable[str]) -> dict[str, dict[str, bool | str]]:
        found: dict[str, dict[str, bool | str]] = {}
        for knob, given in self._mapping(self._content.get("hints") or {}, "hints").items():
            if knob not in knobs:
                raise self._bad(f"hints.{knob}", "is no knob of this table")
            found[knob] = self._mapping(given, f"hints.{knob}")
            for name, hint in found[knob].items():
                if name == "ordered" and not isinstance(hint, bool):
                    raise self._bad(f"hints.{knob}.ordered", "is true or false")
                if name != "ordered" and (name not in objectives or hint not in ("up", "down")):
                    raise self._bad(f"hints.{knob}.{name}", "is 'ordered', or an objective with 'up' or 'down'")
        return found

    def _numbers(self, field: str, names: Iterable[str]) -> dict[str, float]:
        listed = self._field(field)
        if set(listed) != set(names):
            raise self._bad(field, "has one number for each objective")
        for name, value in listed.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
                raise self._bad(f"{field}.{name}", "is a finite number")
        return {name: float(listed[name]) for name in names}

    def _names(self, listed: object, field: str) -> tuple[str, ...]:
        if (
            not isinstance(listed, list)
            or not all(isinstance(v, str) for v in listed)
            or len(set(listed)) < len(listed)
        ):
            raise self._bad(field, "is a list of different names")
        return tuple(listed)

    def _whole(self, field: str, default: int) -> int:
        value = self._content.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._bad(field, "is a whole number, at least 0")
        return value

    def _text(self, field: str) -> str:
        value = self._content.get(field)
        if not isinstance(value, str):
            raise self._bad(field, "is text")
        return value

    def _field(self, field: str) -> dict[str, Any]:
        found = self._mapping(self._content.get(field), field)
        if not found and field != "stage_knobs":
            raise self._bad(field, "is empty")
        return found

    def _mapping(self, value: object, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._bad(field, "is an object")
        return value

    def _bad(self, field: str, rule: str) -> BadInput:
        return BadInput(f"{self._path}: {field}: {rule}")


def text(value: Value) -> str:
    """How a knob's value reads in a text column: text as it is, the rest as in JSON; equal numbers read the same."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(int(value)) if value == value and abs(value) < 1e15 and value == int(value) else repr(float(value))
