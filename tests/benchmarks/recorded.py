"""A recorder over a small space, with everything slow replaced: what builds, and what answers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Answer, Answered, Job, JobFailed
from hardware_profiles.store import Entry, Store
from objectives.task import load_task
from record import building, rows
from record.settings import Recipe, Setup
from search.build import Stage
from spaces.errors import StageFailed
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.sample import Sample

ITEMS = 19  # no multiple of eight
AXES: dict[str, Any] = {
    "model": {"path": ["a", "b"]},
    "pruning": {"ffn": [0, 0.5]},
    "tuning": {
        "method": ["none", "lora"],
        "steps": {"choices": [5, 7], "when": {"tuning.method": ["lora"]}},
        "rank": 8,
        "rate": 0.002,
    },
    "quantization": {"weights": ["fp16", "int8"]},
    "prompt": {"hint": [False, True]},
    "runtime": {"threads": 1, "inference_precision": "f32"},
}
SECONDS = {"model": 1.0, "pruning": 2.0, "tuning": 4.0, "runtime": 8.0, "quantization": 16.0}
FAILS = ("b", "pruning", "it refuses")
CRASHES = {"model.path": "a", "pruning.ffn": 0.5, "tuning.method": "none", "quantization.weights": "int8"}


def make_setup(folder: Path, **axes: Any) -> Setup:
    """A space of 48 candidates, or with other ``axes``, over two models, of which b cannot be pruned."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in ("a", "b"):
        (folder / model).mkdir(exist_ok=True)
        (folder / model / "config.json").write_text(model)
    (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": AXES | axes}))
    hints = {"field": "kind", "values": {"k": "say yes"}}
    task = {"schema": "vlmfront.task/1", "name": "t", "metric": "exact", "hints": hints}
    (folder / "task.yaml").write_text(yaml.safe_dump(task | {"splits": {"search": "x.jsonl"}}))
    judged = {
        split: [
            Sample(id=f"{split}{n}", image=Path("x.png"), question="what ?", answers=("yes",), fields={"kind": "k"})
            for n in range(ITEMS)
        ]
        for split in ("search", "holdout")
    }
    recipe = Recipe(
        path=folder / "record.yaml",
        task=folder / "task.yaml",
        space=folder / "space.yaml",
        items=ITEMS,
        seed=0,
        reference={"accuracy": 0.0, "latency_ms": 100.0, "size_mb": 1.0},
        hints={"quantization.weights": {"ordered": True, "size_mb": "down", "latency_ms": "down"}},
    )
    return Setup(
        recipe=recipe,
        task=load_task(folder / "task.yaml"),
        space=load_space(folder / "space.yaml", builtin()),
        judged=judged,
        splits={"train": judged["search"], "calibration": judged["search"]},
        digests={"train": "t", "calibration": "c"},
    )


def is_right(candidate: dict[str, Any], item: str) -> bool:
    """What the stand-in of a runtime answers: wrong on the first few items, hanging on the candidate."""
    number = int("".join(filter(str.isdigit, item)))
    wrong = 2 * (candidate["pruning.ffn"] > 0) + 3 * candidate["prompt.hint"] + (candidate["model.path"] == "a")
    return bool(number >= wrong + item.startswith("holdout"))


class StandIn:
    """In place of a builder: a stage's artifact is one file, and takes so much processor time."""

    killed: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, root: Path, stop: object) -> None:
        self._store = Store(root)
        self.cpu_s = 0.0

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""

    def run(self, stage: Stage) -> tuple[Entry, bool]:
        if found := self._store.get(stage.key):
            return found, True
        self.cpu_s += SECONDS[stage.axis]
        given = self._files(stage.input_key) if stage.input_key else {"model.json": f'"{stage.choice["path"]}"'}
        if stage.axis == FAILS[1] and given["model.json"] == f'"{FAILS[0]}"':
            raise StageFailed(FAILS[2])
        with self._store.scratch() as folder:
            (folder / "out").mkdir()
            for name, text in {**given, f"{stage.axis}_stage.json": f'"{stage.key}"'}.items():
                (folder / "out" / name).write_text(text)
            entry = self._store.put(stage.key, folder / "out", stage=stage.axis, seconds=99.0, checks={})
        StandIn.killed()
        return entry, False

    def _files(self, key: str) -> dict[str, str]:
        entry = self._store.get(key)
        assert entry is not None  # what a stage is made from is there
        return {name: self._store.blob_path(sha).read_text() for name, sha in entry.files.items()}


def run_job(job: Job, *, enough: Callable[[Any], bool], heard: Callable[[str, Any], None]) -> Answered:
    """In place of a runner, this very process."""
    candidate = dict(open_bundle(Path(job.bundle)).manifest.candidate)
    if CRASHES.items() <= candidate.items():
        raise JobFailed("CRASH", "it died")
    heard("runner", {"pid": os.getpid()})
    heard("phase", {"phase": "work"})
    texts = {one.id: "yes" if is_right(candidate, one.id.partition(":")[2]) else "no" for one in job.requests}
    answers = tuple(Answer(id=name, text=text, tokens=2) for name, text in texts.items())
    for start in range(0, len(answers), 8):
        enough(answers[start : start + 8])
    return Answered(answers=answers, load_s=0.1, work_s=0.1, memory_peak_bytes=1, properties={})


def replace_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is really built or asked."""
    monkeypatch.setattr(building, "Builder", StandIn)
    monkeypatch.setattr(rows, "run_job", run_job)
