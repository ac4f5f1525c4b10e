"""JSON Schemas (2020-12) of the three files that a user writes, for editors."""

from typing import Any

from search.config import FIELDS, SCHEMA
from search.targets import MOST_DEVICES

KINDS = ("task", "space", "search")

_PATH = {"type": "string", "minLength": 1}
_ITEMS = {"type": ["integer", "null"], "minimum": 1}
_FIGURE = {"type": "string", "description": "a figure such as accuracy or latency_p50_ms"}
_NAME = {"type": "string", "minLength": 1}
_BOUND = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {"min": {"type": "number"}, "max": {"type": "number"}},
}
_KNOWN: dict[str, dict[str, Any]] = {
    "schema": {"const": SCHEMA},
    "name": {"type": "string", "pattern": r"^\w[\w .-]{0,79}$", "description": "the run's name"},
    "task": _PATH | {"description": "path of the task file, from this file's folder"},
    "space": _PATH | {"description": "path of the space file, from this file's folder"},
    "device": {
        "oneOf": [
            _NAME,
            {
                "type": "object",
                "required": ["profile", "predicted"],
                "additionalProperties": False,
                "properties": {"profile": _NAME, "predicted": {"const": True}},
            },
        ],
        "description": "local (this machine), a paired device, or {profile: NAME, predicted: true} without any",
    },
    "devices": {
        "type": "array",
        "items": _NAME,
        "minItems": 1,
        "maxItems": MOST_DEVICES,
        "uniqueItems": True,
        "description": "several devices in place of one; each has its own latency, memory, energy and front",
    },
    "objectives": {
        "type": "array",
        "items": _FIGURE,
        "minItems": 1,
        "maxItems": 3,
        "uniqueItems": True,
        "description": "what the front is made of; the first has the say where one must be chosen",
    },
    "limits": {
        "type": "object",
        "additionalProperties": _BOUND,
        "description": "figure -> min or max that a trial must keep, such as {memory_peak_mb: {max: 400}}",
    },
    "retention": {
        "type": "object",
        "required": ["task"],
        "additionalProperties": False,
        "properties": {"task": _PATH, "split": {"type": "string", "minLength": 1}, "items": _ITEMS},
        "description": "rows of another task whose accuracy must not be forgotten",
    },
    "racing": {"type": "boolean", "description": "whether trials that cannot reach the front are stopped early"},
    "finalists": {"type": "boolean", "description": "whether the front is measured again at the end, more thoroughly"},
    "budget": {"type": "string", "description": "a time (90s, 5m, 2h) or a count (48trials)"},
    "items": _ITEMS | {"description": "rows that score a trial; null for all"},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "workers": {"type": "integer", "minimum": 1, "description": "trials built and scored at once, one core each"},
    "store": _PATH | {"description": "folder of the artifacts, shared between runs"},
    "store_limit": {"type": ["string", "number"], "description": "most that the store may hold: bytes, or like 20GB"},
    "sampler": {"type": "string", "description": "what draws candidates: a built-in name, a plug-in or module:attr"},
}


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of one kind of file, of ``KINDS``.

    Raises:
        BadInput: there is no such kind.
    """
    from spaces.errors import BadInput

    if kind == "task":
        from objectives.task_file import task_schema

        return task_schema()
    if kind == "space":
        from spaces.plugins import available
        from spaces.reader import json_schema

        return json_schema(available())
    if kind != "search":
        raise BadInput(f"schema {kind!r}: there are {', '.join(KINDS)}.")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "type": "object",
        "required": ["schema", "task", "space"],
        "additionalProperties": False,
        "properties": {field: _KNOWN[field] for field in _KNOWN if field in FIELDS},
    }
