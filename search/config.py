"""Reads search.yaml: which task, space and device, what to optimise within which limits, and for how long."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.front import OBJECTIVES
from search.budget import Budget, parse_budget
from spaces.errors import BadInput
from spaces.reader import load_yaml, refuse_unknown

SCHEMA = "vlmfront.search/1"
_NAME = re.compile(r"\w[\w .-]{0,79}")
_DEFAULT_STORE = "~/.cache/vlmfront/store"
_DEFAULT_LIMIT = "50GB"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(|[kmgt]b)", re.ASCII)
_FIELDS = {
    "schema",
    "name",
    "task",
    "space",
    "device",
    "objectives",
    "limits",
    "budget",
    "items",
    "seed",
    "workers",
    "store",
    "store_limit",
}


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search as its file describes it.

    Attributes:
        name: the run's name unless ``--run`` gives a folder.
        task, space: paths of the two files.
        device: name of the target; ``local`` is this machine.
        objectives: one to three figures; the first has the say where one must be chosen.
        limits: figure -> ``min`` or ``max`` -> the value that a trial must keep.
        items: how many rows of the search split score a trial; null for all.
        workers: trials that are built and scored at once, one core each.
        store: folder of the artifacts, shared between runs.
        store_limit: bytes that it may take; what was used least recently goes first.
    """

    name: str
    task: Path
    space: Path
    device: str
    objectives: tuple[str, ...]
    limits: Mapping[str, Mapping[str, float]]
    budget: Budget
    items: int | None
    seed: int
    workers: int
    store: Path
    store_limit: int


def load_config(path: Path) -> SearchConfig:
    """The search in a YAML file.

    Raises:
        BadInput: one sentence naming the file, the field and the cure.
    """
    document = load_yaml(path, SCHEMA)
    refuse_unknown(document, _FIELDS, str(path))
    for field in ("task", "space"):
        if not isinstance(document.get(field), str):
            raise BadInput(f"{path}: {field}: the path of a YAML file is expected.")
    objectives = document.get("objectives", ["accuracy", "latency_p50_ms"])
    if (
        not isinstance(objectives, list)
        or not 1 <= len(objectives) <= 3
        or len(set(map(str, objectives))) < len(objectives)
    ):
        raise BadInput(f"{path}: objectives: a list of one to three different figures is expected.")
    refuse_unknown({str(name): None for name in objectives}, OBJECTIVES, f"{path}: objectives")
    device = document.get("device", "local")
    if device != "local":
        raise BadInput(
            f"{path}: device: {device!r} is not known; this version measures on 'local', the machine it runs on."
        )
    try:
        budget = parse_budget(document.get("budget", "1h"))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    name = document.get("name", path.resolve().parent.name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(f"{path}: name: 1 to 80 letters, digits, '.', '_', '-' or blanks are expected, not {name!r}.")
    store = document.get("store", _DEFAULT_STORE)
    if not isinstance(store, str) or not store or "\0" in store:
        raise BadInput(f"{path}: store: the path of a folder is expected, not {store!r}.")
    return SearchConfig(
        name=name,
        task=path.parent / document["task"],
        space=path.parent / document["space"],
        device=device,
        objectives=tuple(objectives),
        limits=_limits(document.get("limits", {}), path),
        budget=budget,
        items=_whole(document, "items", None, path),
        seed=_whole(document, "seed", 0, path) or 0,
        workers=_whole(document, "workers", 2, path) or 1,
        store=path.parent / Path(store).expanduser(),
        store_limit=_bytes(document.get("store_limit", _DEFAULT_LIMIT), path),
    )


def _limits(given: Any, path: Path) -> dict[str, dict[str, float]]:
    where = f"{path}: limits"
    if not isinstance(given, dict):
        raise BadInput(f"{where}: a mapping like {{memory_peak_mb: {{max: 500}}}} is expected.")
    refuse_unknown(given, OBJECTIVES, where)
    for figure, bounds in given.items():
        if not isinstance(bounds, dict) or not bounds:
            raise BadInput(f"{where}.{figure}: {{min: ...}} or {{max: ...}} is expected.")
        refuse_unknown(bounds, {"min", "max"}, f"{where}.{figure}")
        for side, value in bounds.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"{where}.{figure}.{side}: a number is expected, not {value!r}.")
    return {figure: {side: float(value) for side, value in bounds.items()} for figure, bounds in given.items()}


def _bytes(given: Any, path: Path) -> int:
    match = _SIZE.fullmatch(str(given).lower()) if type(given) in (str, int, float) else None
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not size:
        raise BadInput(f"{path}: store_limit: a size like 20GB is expected (kB, MB, GB or TB), not {given!r}.")
    return size


def _whole(document: Mapping[str, Any], field: str, default: int | None, path: Path) -> int | None:
    value = document.get(field, default)
    least, most = (0, 2**32 - 1) if field == "seed" else (1, 10**9)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise BadInput(f"{path}: {field}: a whole number from {least} to {most} is expected, not {value!r}.")
    return value
