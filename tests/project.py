"""A whole search in a folder: the tiny checkpoint as two models, and a task of a few noise images."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml
from PIL import Image

from objectives.trial import Trial

Project: TypeAlias = Callable[..., Path]
COLOURS = ("red", "green", "blue")
AXES: dict[str, Any] = {
    "model": {"path": ["models/a", "models/b"]},
    "quantization": {"weights": ["fp16", "int8"]},
    "prompt": {"template": ["{question}", "what colour : {question}"], "hint": [False, True]},
}
SPLITS = {"train": 8, "calibration": 8, "search": 24, "holdout": 24}


def lasting(trial: Trial) -> Trial:
    """A trial without its intervals, which learn from references that are measured later."""
    return replace(trial, figures={name: replace(one, low=None, high=None) for name, one in trial.figures.items()})


def write_rows(folder: Path, split: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        name = f"images/{split}-{number}.png"
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / name)
        row = {"id": f"{split}-{number}", "image": name, "question": "what colour is this ?", "kind": "colour"}
        rows.append(row | {"answer": COLOURS[number % 3]})
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path) -> Project:
    """Writes task, space and search file and gives the path of the latter; keywords replace fields in it."""

    def write(axes: dict[str, Any] = AXES, **fields: Any) -> Path:
        for model in ("a", "b"):
            shutil.copytree(tiny_checkpoint, tmp_path / "models" / model, dirs_exist_ok=True)
        for seed, (split, count) in enumerate(SPLITS.items()):
            write_rows(tmp_path, split, count, seed)
        task = {
            "schema": "vlmfront.task/1",
            "name": "colours",
            "metric": "exact",
            "slices": ["kind"],
            "splits": {split: f"{split}.jsonl" for split in SPLITS},
            "max_new_tokens": 4,
            "hints": {"field": "kind", "values": {"colour": "red green blue"}},
        }
        search: dict[str, Any] = {
            "schema": "vlmfront.search/1",
            "name": "try",
            "task": "task.yaml",
            "space": "space.yaml",
        }
        search |= {"budget": "4trials", "store": "store", "finalists": False}
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        (tmp_path / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump(search | fields))
        return path

    return write
