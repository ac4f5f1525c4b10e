"""The settings of a search as its run records them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from objectives.registry import OBJECTIVES, metadata
from objectives.task import Task, split_digest
from search.config import SearchConfig
from search.scoring import Retention
from spaces.knobs import Choices
from spaces.space import Space

_TOOLS = ("torch", "transformers", "optimum-intel", "nncf", "openvino", "openvino-genai", "optuna", "peft", "vlmfront")


def resolved(path: Path, config: SearchConfig, task: Task, space: Space, digests: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a run records, but for its devices, models and retention set."""
    return {
        "name": config.name,
        "search": {
            "file": str(path.resolve()),
            "objectives": list(config.objectives),
            "limits": {name: dict(bounds) for name, bounds in config.limits.items()},
            "items": config.items,
            "racing": config.racing,
            "finalists": config.finalists,
            "figures": [metadata(one) for name, one in config.known.items() if name not in OBJECTIVES],
            "seed": config.seed,
            "sampler": config.sampler,
            "workers": config.workers,
            "budget": str(config.budget),
        },
        "space_id": space.id,
        "space": {"file": str(config.space.resolve()), "size": space.size, "knobs": _knobs(space)},
        "task": {
            "path": str(config.task.resolve()),
            "name": task.name,
            "metric": task.metric.spec,
            "slices": list(task.slices),
            "max_new_tokens": task.max_new_tokens,
            "hints": {task.hint_field: dict(task.hints)},
            "unknown": list(task.unknown),
            "costs": asdict(task.costs) if task.costs else None,
            "digests": dict(digests),
        },
        "versions": {"python": sys.version.split()[0], **{tool: _version(tool) for tool in _TOOLS}},
        "store": str(config.store.resolve()),
        "cores": os.cpu_count(),
    }


def _knobs(space: Space) -> dict[str, Any]:
    return {
        knob.name: list(knob.values) if isinstance(knob, Choices) else {"low": knob.low, "high": knob.high}
        for knob in space.knobs
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def retention_settings(config: SearchConfig, retention: Retention | None) -> dict[str, Any] | None:
    """What a run records of the set that must not be forgotten."""
    if config.retention is None or retention is None:
        return None
    return {
        "split": config.retention.split,
        "items": len(retention.samples),
        "metric": retention.task.metric.spec,
        "digest": split_digest(retention.samples),
    }
