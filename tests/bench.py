"""An evaluator and an engine over two models and two kinds of weights, with everything slow replaced."""

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles.agent.supervisor import Enough
from hardware_profiles.bundle import Execution, open_bundle, seal
from hardware_profiles.messages import Answered, Job, Request
from hardware_profiles.store import Entry, Store
from objectives.devices import bound
from objectives.records import DeviceEvent
from objectives.registry import OBJECTIVES
from objectives.run import RunFolder
from objectives.task import Task, load_task
from objectives.trial import Trial
from search import evaluate, fleet, refusing, scoring
from search.budget import Budget
from search.build import Stage, StageTree
from search.engine import Engine, directions, settle
from search.evaluate import Evaluator
from search.fleet import Fleet
from search.gate import Gate
from search.scoring import Retention, Scorer
from search.study import Asked, Study
from spaces.candidate import Candidate
from spaces.errors import StageFailed
from spaces.plugins import builtin
from spaces.prompting import Prompt
from spaces.reader import load_space
from spaces.sample import Sample
from spaces.space import Space
from tests.double import Double, opener, told

N = 64
OBJECTIVE_NAMES = ("accuracy", "latency_p50_ms")
RIGHT = {("a", "fp16"): 60, ("a", "int8"): 16, ("b", "fp16"): 40, ("b", "int8"): 62}
"""How many of the items each model answers right: the first ones in file order."""
KEPT = {("a", "fp16"): 20, ("a", "int8"): 12, ("b", "fp16"): 8, ("b", "int8"): 9}
LATENCY = {("a", "fp16"): 10.0, ("a", "int8"): 20.0, ("b", "fp16"): 30.0, ("b", "int8"): 5.0}
TWO = {
    "pi": {("a", "fp16"): 60.0, ("a", "int8"): 10.0, ("b", "fp16"): 25.0, ("b", "int8"): 50.0},
    "jetson": {("a", "fp16"): 5.0, ("a", "int8"): 2.0, ("b", "fp16"): 9.0, ("b", "int8"): 3.0},
}
ITEMS = [Sample(id=str(n), image=Path("x.png"), question="what ?", answers=("Yes !",)) for n in range(N)]
RETAINED = [Sample(id=str(n), image=Path("y.png"), question="which ?", answers=("7",)) for n in range(24)]


class StandIn:
    """In place of a builder: every stage is made at once, unless its axis refuses."""

    def __init__(self, refused: dict[str, str]) -> None:
        self._refused = refused

    def run(self, stage: Stage) -> tuple[Entry, bool]:
        if stage.axis in self._refused:
            raise StageFailed(self._refused[stage.axis])
        return Entry(key=stage.key, stage=stage.axis, files={}, sizes={}, seconds=1.0, checks={}), False

    def kill(self) -> None:
        """Nothing runs."""


class Bench:
    """An evaluator over two models and two kinds of weights, and what was asked of its runners."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[tuple[str, dict[str, Any], int]] = []
        self.fails: dict[tuple[str, str, str], Exception] = {}
        self.refused: dict[str, str] = {}
        self.stop = threading.Event()
        self.events: list[DeviceEvent] = []
        for model in ("a", "b"):
            (folder / model).mkdir()
            (folder / model / "config.json").write_text(model)
        axes = {"model": {"path": ["a", "b"]}, "quantization": {"weights": ["fp16", "int8"]}, "runtime": {"threads": 2}}
        (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
        task = {"schema": "vlmfront.task/1", "name": "t", "metric": "exact", "splits": {"search": "x.jsonl"}}
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        self.task: Task = load_task(folder / "task.yaml")
        self.space: Space = load_space(folder / "space.yaml", builtin())
        self.run = RunFolder.create(folder / "run", {"devices": {}})
        device = Double("local", lambda bundle: LATENCY[key_of(bundle)], here=True, say=said)
        device.fails = lambda kind, bundle: self._fail(kind, key_of(bundle)) if kind != "open" else None
        self.devices: dict[str, Double] = {"local": device}
        monkeypatch.setattr(fleet, "open_device", opener(self.devices))
        monkeypatch.setattr(scoring, "run_job", self._job)
        monkeypatch.setattr(evaluate, "bind", self._bind)
        monkeypatch.setattr(refusing, "refused", lambda *_: None)

    def evaluator(self, **changed: Any) -> Evaluator:
        retention = Retention(task=self.task, samples=RETAINED) if changed.pop("retention", False) else None
        tree = StageTree(self.space, {"calibration": ITEMS}, {"calibration": "c"}, 8, 0)
        devices = Fleet(tuple(self.devices), Gate(), self.stop)
        devices.events = self.events
        devices.open()
        given: dict[str, Any] = {"objectives": OBJECTIVE_NAMES, "known": OBJECTIVES, "limits": {}, "racing": True}
        return Evaluator(
            run=self.run,
            space=self.space,
            scorer=Scorer(self.task, ITEMS, retention, 0),
            tree=tree,
            store=Store(self.folder / "store"),
            fleet=devices,
            **(given | changed),
        )

    def candidate(self, model: str, weights: str) -> Candidate:
        return self.space.candidate({"model.path": model, "quantization.weights": weights, "runtime.threads": 2})

    def try_(self, evaluator: Evaluator, number: int, model: str, weights: str) -> Trial:
        return evaluator.evaluate(Asked(number, self.candidate(model, weights)), StandIn(self.refused))  # type: ignore[arg-type]

    def two(self) -> tuple[Double, Double]:
        """In place of the one device ``pi`` and ``jetson``, which differ in what is fast."""
        pi, jetson = (Double(name, partial(_ms, name), say=said) for name in TWO)
        self.devices.clear()
        self.devices |= {"pi": pi, "jetson": jetson}
        return pi, jetson

    def search(
        self,
        objectives: Sequence[str] = OBJECTIVE_NAMES,
        budget: int = 4,
        *,
        finalists: bool = False,
        racing: bool = False,
        on_trial: Callable[[Trial], None] = lambda _: None,
        **changed: Any,
    ) -> Engine:
        """An engine over all four candidates, those of a run that was begun before carried on."""
        self.stop.clear()
        self.run = RunFolder.open(self.run.path)
        evaluator = self.evaluator(objectives=objectives, racing=racing, **changed)
        known = bound(OBJECTIVES, self.devices)
        study = Study(self.run.journal, self.space, directions([known[name] for name in objectives]), 0, "random")
        settle(self.run, study, objectives, evaluator.limits)
        return Engine(
            run=self.run,
            study=study,
            evaluator=evaluator,
            objectives=objectives,
            budget=Budget(trials=budget),
            builders=[StandIn(self.refused)],  # type: ignore[list-item]
            fleet=evaluator.measuring.fleet,
            finalists=finalists,
            on_trial=on_trial,
            on_finalist=lambda *_: None,
        )

    def _bind(self, target: Path, candidate: Candidate, *_: object) -> None:
        target.mkdir(parents=True)
        values = {name: value for name, value in candidate.values.items() if name != "runtime.threads"}
        (target / "model.txt").write_text(json.dumps(values).ljust(50_000))
        known = {"prompt": Prompt(), "max_new_tokens": 8, "execution": Execution(threads=2), "provenance": {}}
        seal(target, runtime="openvino", candidate=dict(candidate.values), **known)  # type: ignore[arg-type]

    def _fail(self, kind: str, key: tuple[str, str]) -> None:
        if (error := self.fails.get((kind, *key))) is not None:
            raise error

    def _job(self, job: Job, *, cancel: threading.Event, enough: Enough | None = None) -> Answered:
        """What the host answers."""
        bundle = Path(job.bundle)
        self._fail(job.kind, key_of(bundle))
        assert not cancel.is_set()
        found = told(bundle, job.requests, enough, said)
        self.asked.append((job.kind, dict(open_bundle(bundle).manifest.candidate), len(found.answers)))
        return found


def _ms(name: str, bundle: Path) -> float:
    return TWO[name][key_of(bundle)]


def key_of(bundle: Path) -> tuple[str, str]:
    values = open_bundle(bundle, verify=False).manifest.candidate
    return values["model.path"], values.get("quantization.weights", "fp16")


def said(bundle: Path, request: Request) -> str:
    key = key_of(bundle)
    kind, _, number = request.id.rpartition(":")
    if kind == "retention":
        return "7" if int(number) < KEPT[key] else "8"
    return "yes" if int(number) < RIGHT[key] else f"no {key[1]}"
