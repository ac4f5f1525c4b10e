"""The settings that a run records: what makes two of them two searches."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from spaces.canonical import canonical_json

_MAY_CHANGE = frozenset({"file", "budget", "workers"})
_NAMED = 4
"""So many fields that differ are named."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Search(_Part):
    objectives: list[str] = []
    limits: dict[str, dict[str, float]] = {}
    figures: list[Any] = []


class _Space(_Part):
    knobs: dict[str, list[Any] | dict[str, Any]] = {}


class _Task(_Part):
    path: str = ""
    digests: dict[str, str] = {}


class Shape(_Part):
    """The types of those settings that readers of a run rely on."""

    search: _Search = _Search()
    space: _Space = _Space()
    task: _Task = _Task()
    devices: dict[str, dict[str, Any]] = {}
    store: str = ""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes two settings two searches: what differs of space, task, device and search settings, field by field."""
    parts: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "task": lambda s: {k: v for k, v in s.get("task", {}).items() if k != "path"},
        "set of devices": lambda s: {name: one.get("profile") for name, one in s.get("devices", {}).items()},
        "store": lambda s: s.get("store"),
        "set of model folders": lambda s: s.get("models"),
        "set of tool versions": lambda s: s.get("versions"),
        "set of search settings": _search,
    }
    found = []
    if not _same(old.get("space_id"), new.get("space_id")):
        knobs = _fields(*(settings.get("space", {}).get("knobs") for settings in (old, new)))
        found.append(f"space ({knobs or 'conditions or versions of its axes'})")
    for name, read in parts.items():
        if not _same(read(old), read(new)):
            fields = _fields(read(old), read(new))
            found.append(f"{name} ({fields})" if fields else name)
    return found


def _search(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The search settings that may not change; of plug-ins' figures those that are an objective or have a limit."""
    kept = {name: value for name, value in settings.get("search", {}).items() if name not in _MAY_CHANGE}
    asked = {*kept.get("objectives", ()), *kept.get("limits", ())}
    return kept | {
        "figures": [one for one in kept.get("figures", ()) if isinstance(one, Mapping) and one.get("name") in asked]
    }


def _same(old: Any, new: Any) -> bool:
    return canonical_json(old) == canonical_json(new)


def _fields(old: Any, new: Any) -> str:
    """The fields in which two mappings differ, one level further down where both hold mappings; the first few."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return ""
    names: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        if name in old and name in new and _same(old[name], new[name]):
            continue
        inner = _fields(old.get(name), new.get(name))
        names += [f"{name}.{part}" for part in inner.split(", ")] if inner else [name]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
