"""Reads search.yaml: which task, space and device, what to optimise within which limits, and for how long."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.registry import Objective, available, load
from objectives.task import Task
from search.budget import Budget, parse_budget
from search.targets import Targets, each_limit, each_objective, read_targets
from spaces.errors import BadInput
from spaces.reader import load_yaml, refuse_unknown

SCHEMA = "vlmfront.search/1"
_NAME = re.compile(r"\w[\w .-]{0,79}")
DEFAULT_STORE = "~/.cache/vlmfront/store"
_DEFAULT_LIMIT = "50GB"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(|[kmgt]b)", re.ASCII)
FIELDS = {
    "schema",
    "name",
    "task",
    "space",
    "device",
    "devices",
    "objectives",
    "limits",
    "retention",
    "racing",
    "finalists",
    "budget",
    "items",
    "seed",
    "workers",
    "sampler",
    "store",
    "store_limit",
}


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Rows of another task that must not be forgotten. ``items``: how many of them are asked; null for all."""

    task: Path
    split: str
    items: int | None


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search as its file describes it.

    Attributes:
        name: the run's name unless ``--run`` gives a folder.
        task, space: paths of the two files.
        targets: the devices that it is for; ``local`` is this machine.
        objectives: one to four figures; the first has the say where one must be chosen. With several devices, those
            of a device once for each (``latency_p50_ms@pi``), and limits likewise.
        known: every figure that there is, by name.
        limits: figure -> ``min`` or ``max`` -> the value that a trial must keep.
        racing: whether scoring stops early where a trial can no longer reach the front.
        finalists: whether the front is measured again at the end, in at least five processes each.
        items: how many rows of the search split score a trial; null for all.
        workers: trials that are built and scored at once, one core each.
        sampler: what proposes candidates: a name or ``module:attr``, see :mod:`search.samplers`.
        store: folder of the artifacts, shared between runs.
        store_limit: bytes that it may take; what was used least recently goes first.
    """

    name: str
    task: Path
    space: Path
    targets: Targets
    objectives: tuple[str, ...]
    known: Mapping[str, Objective]
    limits: Mapping[str, Mapping[str, float]]
    retention: RetentionConfig | None
    racing: bool
    finalists: bool
    budget: Budget
    items: int | None
    seed: int
    workers: int
    sampler: str
    store: Path
    store_limit: int


def load_config(path: Path) -> SearchConfig:
    """The search in a YAML file.

    Raises:
        BadInput: one sentence naming the file, the field and the cure.
    """
    document = load_yaml(path, SCHEMA)
    refuse_unknown(document, FIELDS, str(path))
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
    limits = document.get("limits", {})
    if not isinstance(limits, dict):
        raise BadInput(f"{path}: limits: a mapping like {{memory_peak_mb: {{max: 500}}}} is expected.")
    targets = read_targets(document, path)
    known, names = _figures([*objectives, *limits], path)
    goals = each_objective([names[str(name)] for name in objectives], known, targets, path)
    limits = _limits({names[str(name)]: bounds for name, bounds in limits.items()}, path)
    try:
        budget = parse_budget(document.get("budget", "1h"))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    name = document.get("name", path.resolve().parent.name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(f"{path}: name: 1 to 80 letters, digits, '.', '_', '-' or blanks are expected, not {name!r}.")
    store = document.get("store", DEFAULT_STORE)
    if not isinstance(store, str) or not store or "\0" in store:
        raise BadInput(f"{path}: store: the path of a folder is expected, not {store!r}.")
    return SearchConfig(
        name=name,
        task=path.parent / document["task"],
        space=path.parent / document["space"],
        targets=targets,
        objectives=tuple(goals),
        known=known,
        limits=each_limit(limits, known, targets, path),
        retention=_retention(document.get("retention"), path),
        racing=_flag(document, "racing", True, path),
        finalists=_flag(document, "finalists", True, path),
        budget=budget,
        items=_whole(document, "items", None, path),
        seed=_whole(document, "seed", 0, path) or 0,
        workers=_whole(document, "workers", 2, path) or 1,
        sampler=_sampler(document.get("sampler", "tpe"), path),
        store=path.parent / home(store, f"{path}: store"),
        store_limit=_bytes(document.get("store_limit", _DEFAULT_LIMIT), path),
    )


def home(text: str, where: str) -> Path:
    """The path in a text, ``~`` resolved; ``where`` names its field in the message.

    Raises:
        BadInput: the text names a user that there is not.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadInput(f"{where}: {text!r} names the home of a user that is not known here.") from None


def _sampler(name: Any, path: Path) -> str:
    from search import samplers  # loads optuna

    try:
        samplers.find(str(name))
    except BadInput as error:
        raise BadInput(f"{path}: sampler: {error}") from None
    return str(name)


def refuse_impossible(config: SearchConfig, task: Task, path: Path) -> None:
    """A figure that is asked for must be one that this task and this search can have.

    Raises:
        BadInput: naming the field and what is missing.
    """
    needs = {
        "retention": (config.retention, f"`retention: {{task: ..., split: ...}}` in {path}"),
        "forgetting": (config.retention, f"`retention: {{task: ..., split: ...}}` in {path}"),
        "cost": (task.costs, f"`costs` in {task.path}"),
    }
    for field, names in (("objectives", config.objectives), ("limits", config.limits)):
        for name in names:
            given, what = needs.get(name, (True, ""))
            if given is None:
                raise BadInput(f"{path}: {field}: {name} needs {what}.")


def _figures(asked: Sequence[Any], path: Path) -> tuple[Mapping[str, Objective], dict[str, str]]:
    """Every figure there is, with those given as ``module:attr`` among ``asked``, and what each of ``asked`` is called.

    Raises:
        BadInput: such a one is no objective.
    """
    references = sorted({str(name) for name in asked if ":" in str(name)})
    try:
        known = available(references)
        return known, {str(name): load(str(name)).name if ":" in str(name) else str(name) for name in asked}
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _retention(given: Any, path: Path) -> RetentionConfig | None:
    where = f"{path}: retention"
    if given is None:
        return None
    if not isinstance(given, dict):
        raise BadInput(f"{where}: a mapping like {{task: other/task.yaml, split: search, items: 256}} is expected.")
    refuse_unknown(given, {"task", "split", "items"}, where)
    split = given.get("split", "search")
    for field, value in (("task", given.get("task")), ("split", split)):
        if not isinstance(value, str) or not value or "\0" in value:
            raise BadInput(
                f"{where}.{field}: {'the path of a task file' if field == 'task' else 'a name'} is expected."
            )
    items = _whole({"retention.items": given.get("items")}, "retention.items", None, path)
    return RetentionConfig(task=path.parent / given["task"], split=split, items=items)


def _limits(given: Mapping[str, Any], path: Path) -> dict[str, dict[str, float]]:
    where = f"{path}: limits"
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


def _flag(document: Mapping[str, Any], field: str, default: bool, path: Path) -> bool:
    value = document.get(field, default)
    if not isinstance(value, bool):
        raise BadInput(f"{path}: {field}: true or false is expected, not {value!r}.")
    return value
