"""The way of a trial with everything slow replaced: bundles are folders with a candidate, answers come from a table."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hardware_profiles.agent.supervisor import Cancelled, Enough
from hardware_profiles.bundle import Execution, open_bundle, seal
from hardware_profiles.messages import Answered, Job, JobFailed, Request
from hardware_profiles.store import Entry, Store
from objectives.accuracy import paired_difference, wilson
from objectives.registry import OBJECTIVES, Definition, available
from objectives.run import RunFolder
from objectives.task import Task, load_task
from objectives.trial import Figure, Trial
from reports.front import front
from search import evaluate, fleet, scoring
from search.build import Stage, StageTree
from search.engine import settle, tell
from search.evaluate import Evaluator
from search.executors import Interrupted
from search.fleet import Fleet
from search.gate import Gate
from search.scoring import Retention, Scorer
from search.study import NAME, Asked, Study
from spaces.candidate import Candidate
from spaces.errors import StageFailed
from spaces.plugins import builtin
from spaces.prompting import Prompt
from spaces.reader import load_space
from spaces.sample import Sample
from spaces.space import Space
from tests.double import CHUNK, Double, opener, told

N = 64
OBJECTIVE_NAMES = ("accuracy", "latency_p50_ms")
RIGHT = {("a", "fp16"): 60, ("a", "int8"): 16, ("b", "fp16"): 40, ("b", "int8"): 62}
"""How many of the items each model answers right: the first ones in file order."""
KEPT = {("a", "fp16"): 20, ("a", "int8"): 12, ("b", "fp16"): 8, ("b", "int8"): 9}
LATENCY = {("a", "fp16"): 10.0, ("a", "int8"): 20.0, ("b", "fp16"): 30.0, ("b", "int8"): 5.0}
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


class Bench:
    """An evaluator over two models and two kinds of weights, and what was asked of its runners."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[tuple[str, dict[str, Any], int]] = []
        self.fails: dict[tuple[str, str, str], Exception] = {}
        self.refused: dict[str, str] = {}
        self.stop = threading.Event()
        for model in ("a", "b"):
            (folder / model).mkdir()
            (folder / model / "config.json").write_text(model)
        axes = {"model": {"path": ["a", "b"]}, "quantization": {"weights": ["fp16", "int8"]}, "runtime": {"threads": 2}}
        (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
        task = {"schema": "vlmfront.task/1", "name": "t", "metric": "exact", "splits": {"search": "x.jsonl"}}
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        self.task: Task = load_task(folder / "task.yaml")
        self.space: Space = load_space(folder / "space.yaml", builtin())
        self.run = RunFolder.create(folder / "run", {})
        device = Double("local", lambda bundle: LATENCY[key_of(bundle)], here=True, say=said)
        device.fails = lambda kind, bundle: self._fail(kind, key_of(bundle)) if kind != "open" else None
        self.devices = {"local": device}
        monkeypatch.setattr(fleet, "open_device", opener(self.devices))
        monkeypatch.setattr(scoring, "run_job", self._job)
        monkeypatch.setattr(evaluate, "bind", self._bind)
        monkeypatch.setattr(evaluate, "unfit", lambda *_: None)

    def evaluator(self, **changed: Any) -> Evaluator:
        retention = Retention(task=self.task, samples=RETAINED) if changed.pop("retention", False) else None
        tree = StageTree(self.space, {"calibration": ITEMS}, {"calibration": "c"}, 8, 0)
        devices = Fleet(tuple(self.devices), Gate(), self.stop)
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


def key_of(bundle: Path) -> tuple[str, str]:
    values = open_bundle(bundle, verify=False).manifest.candidate
    return values["model.path"], values.get("quantization.weights", "fp16")


def said(bundle: Path, request: Request) -> str:
    key = key_of(bundle)
    kind, _, number = request.id.rpartition(":")
    if kind == "retention":
        return "7" if int(number) < KEPT[key] else "8"
    return "yes" if int(number) < RIGHT[key] else f"no {key[1]}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def figures(trial: Trial) -> dict[str, float | None]:
    return {name: figure.value for name, figure in trial.figures.items()}


def test_agreement_is_with_the_own_model_as_it_comes_scored_once(bench: Bench) -> None:
    evaluator = bench.evaluator(racing=False)
    small = bench.try_(evaluator, 0, "a", "int8")
    # "yes" to the first 16, "no int8" after; the model as it comes says "yes" to 60 and "no fp16" after
    low, high = wilson(16, N)
    assert small.figures["agreement"].value == 16 / N
    assert (small.figures["agreement"].low, small.figures["agreement"].high) == (low, high)
    assert [len(values) for _, values, _ in bench.asked] == [3, 2]
    assert bench.asked[1][1] == {"model.path": "a", "runtime.threads": 2}
    plain = bench.try_(evaluator, 1, "a", "fp16")
    assert plain.figures["agreement"].value == 1.0
    assert len(bench.asked) == 3
    assert plain.seconds["reference"] == 0
    assert small.seconds["reference"] > 0
    assert sorted(path.suffix for path in (bench.run.path / "references").iterdir()) == [".json"]
    bench.try_(bench.evaluator(racing=False), 2, "a", "int8")
    assert len(bench.asked) == 4


def test_the_trial_that_is_the_model_as_it_comes_is_its_reference(bench: Bench) -> None:
    evaluator = bench.evaluator(racing=False)
    bench.try_(evaluator, 0, "b", "fp16")
    found = bench.try_(evaluator, 1, "b", "int8")
    assert len(bench.asked) == 2
    assert found.figures["agreement"].value == 40 / N
    [kept] = (bench.run.path / "references").glob("*.json")
    kept.write_text(kept.read_text()[:-9])
    assert bench.try_(evaluator, 2, "b", "int8").figures["agreement"].value == 40 / N
    assert len(bench.asked) == 4
    assert json.loads(kept.read_text())["answers"]["0"] == "yes"


def test_forgetting_is_the_paired_fall_on_the_retention_set(bench: Bench) -> None:
    found = bench.try_(bench.evaluator(retention=True, racing=False), 0, "a", "int8")
    before = np.array([1.0] * 20 + [0.0] * 4)
    after = np.array([1.0] * 12 + [0.0] * 12)
    assert found.figures["retention"].value == 12 / 24
    forgetting = found.figures["forgetting"]
    assert forgetting.value == pytest.approx((before - after).mean())
    # Agresti and Min 2005: half an observation on each outcome of a pair, here 8 losses of 24
    share = (8 + 0.5 - 0.5) / 26
    spread = np.sqrt(((8 + 1) / 26 - share**2) / 26)
    assert forgetting.low == pytest.approx(share - 1.959964 * spread)
    assert forgetting.high == pytest.approx(share + 1.959964 * spread)
    by_item = [{str(n): float(score) for n, score in enumerate(scores)} for scores in (before, after)]
    assert forgetting == paired_difference(*by_item)
    assert found.figures["accuracy"].value == 16 / N
    assert bench.asked[0][2] == N + 24


def test_a_race_that_is_lost_ends_the_scoring(bench: Bench) -> None:
    evaluator = bench.evaluator()
    assert bench.try_(evaluator, 0, "a", "fp16").state == "complete"
    lost = bench.try_(evaluator, 1, "a", "int8")
    assert (lost.state, lost.reason) == ("pruned", "behind trial 0, which is no worse in anything else")
    seen = bench.asked[-1][2]
    assert 0 < seen < N
    assert seen % CHUNK == 0
    answers = bench.run.read_answers(1)
    assert [int(answer.id) for answer in answers] == sorted(int(answer.id) for answer in answers)
    assert lost.figures["accuracy"].n == len(answers) == seen
    right = sum(int(answer.id) < 16 for answer in answers)
    assert lost.figures["accuracy"].value == right / seen
    assert (lost.figures["accuracy"].low, lost.figures["accuracy"].high) == wilson(right, seen)
    assert "agreement" not in lost.figures
    assert bench.run.read_trial(1) == lost
    assert [trial.number for trial in front(bench.run.read_trials()).trials] == [0]


def test_a_rival_whose_answers_are_damaged_is_no_rival(bench: Bench) -> None:
    evaluator = bench.evaluator()
    bench.try_(evaluator, 0, "a", "fp16")
    kept = bench.run.path / "answers" / "00000.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    for number, damaged in enumerate(("".join(lines)[:-20], "".join(lines[:-1])), start=1):
        kept.write_text(damaged)
        assert bench.try_(evaluator, number, "a", "int8").state == "complete"


def test_what_may_still_win_or_has_to_be_whole_is_scored_in_full(bench: Bench) -> None:
    evaluator = bench.evaluator()
    bench.try_(evaluator, 0, "b", "int8")
    assert bench.try_(evaluator, 1, "b", "fp16").state == "complete"  # slower and worse, but the reference of b
    assert bench.try_(evaluator, 2, "a", "fp16").state == "complete"  # 60 against 62 of 64 is no clear race
    assert bench.try_(bench.evaluator(racing=False), 3, "a", "int8").state == "complete"
    limited = bench.evaluator(limits={"size_mb": {"max": 0.01}})
    assert bench.try_(limited, 4, "a", "int8").state == "infeasible"
    third = bench.evaluator(objectives=("accuracy", "latency_p50_ms", "agreement"))
    assert bench.try_(third, 5, "a", "int8").state == "complete"
    assert [len(bench.run.read_answers(number)) for number in range(6)] == [N] * 6


def test_the_front_is_the_same_with_and_without_racing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fronts, answered = [], []
    for racing in (True, False):
        (tmp_path / str(racing)).mkdir()
        bench = Bench(tmp_path / str(racing), monkeypatch)
        evaluator = bench.evaluator(racing=racing)
        for number, (model, weights) in enumerate(LATENCY):
            bench.try_(evaluator, number, model, weights)
        fronts.append([trial.number for trial in front(bench.run.read_trials()).trials])
        answered.append(sum(count for _, _, count in bench.asked))
    assert fronts[0] == fronts[1]
    assert answered[0] < answered[1]


@pytest.mark.parametrize(
    ("kind", "error", "reason"),
    [
        ("provisional", JobFailed("OOM", "memory ran out"), "OOM: memory ran out"),
        ("answer", JobFailed("CRASH", "the runner died of SIGSEGV"), "CRASH: the runner died of SIGSEGV"),
        ("answer", JobFailed("TIMEOUT", "nothing was heard of work"), "TIMEOUT: nothing was heard of work"),
    ],
)
def test_a_job_that_fails_is_a_failed_trial(bench: Bench, kind: str, error: Exception, reason: str) -> None:
    bench.fails[kind, "a", "int8"] = error
    found = bench.try_(bench.evaluator(), 0, "a", "int8")
    assert (found.state, found.reason) == ("failed", reason)
    assert found.figures["size_mb"].value == 0.05
    assert ("latency_p50_ms" in found.figures) == (kind == "answer")
    assert bench.run.read_trial(0) == found


def test_a_stage_that_refuses_is_a_failed_trial(bench: Bench) -> None:
    bench.refused["runtime"] = "the openvino export answers 3 of 32 samples like its checkpoint"
    found = bench.try_(bench.evaluator(), 0, "a", "fp16")
    assert (found.state, found.reason) == ("failed", bench.refused["runtime"])
    assert found.figures == {}
    assert [stage.name for stage in found.stages] == ["model"]


def test_a_missed_limit_is_infeasible_and_keeps_its_figures(bench: Bench) -> None:
    evaluator = bench.evaluator(limits={"agreement": {"min": 0.9}, "latency_p50_ms": {"max": 50}})
    found = bench.try_(evaluator, 0, "a", "int8")
    assert found.state == "infeasible"
    assert found.violated == ("agreement is 0.25, and its limit is min 0.9",)
    assert figures(found) | {"accuracy": 0.25} == figures(found)


def test_a_reference_that_cannot_be_scored_is_named_and_not_tried_again(bench: Bench) -> None:
    bench.fails["answer", "a", "fp16"] = JobFailed("OOM", "memory ran out")
    evaluator = bench.evaluator(racing=False)
    found = bench.try_(evaluator, 0, "a", "int8")
    assert found.state == "complete"
    assert "agreement" not in found.figures
    assert found.labels == ("the unmodified model cannot be scored (OOM: memory ran out)",)
    bench.fails.clear()
    assert "agreement" not in bench.try_(evaluator, 1, "a", "int8").figures
    limited = bench.evaluator(limits={"agreement": {"min": 0.1}})
    bench.fails["answer", "a", "fp16"] = JobFailed("OOM", "memory ran out")
    [missed] = bench.try_(limited, 2, "a", "int8").violated
    assert missed == "agreement could not be measured, and its limit is min 0.1"


def test_a_stop_keeps_nothing_of_the_trial(bench: Bench) -> None:
    bench.fails["answer", "a", "int8"] = Cancelled("stop")
    with pytest.raises(Interrupted):
        bench.try_(bench.evaluator(), 0, "a", "int8")
    assert bench.run.read_trials() == ()


def test_every_state_is_told_as_such_and_kept_on_resume(bench: Bench) -> None:
    limits = {"latency_p50_ms": {"max": 25.0}}
    directions = ["maximize", "minimize"]
    study = Study(bench.run.journal, bench.space, directions, seed=0)
    evaluator = bench.evaluator(limits=limits)
    bench.fails["answer", "b", "int8"] = JobFailed("CRASH", "it died")
    order = [("a", "fp16"), ("a", "int8"), ("b", "fp16"), ("b", "int8")]
    for model, weights in order:
        study.propose(bench.candidate(model, weights))
    for model, weights in order:
        asked = study.ask()
        assert asked is not None
        found = bench.try_(evaluator, asked.number, model, weights)
        if model == "a":
            tell(study, found, OBJECTIVE_NAMES, limits)
    again = Study(bench.run.journal, bench.space, directions, seed=0)
    assert settle(bench.run, again, OBJECTIVE_NAMES, limits) == 0
    assert again.ask() is None
    storage = JournalStorage(JournalFileBackend(str(bench.run.journal)))
    told = optuna.load_study(study_name=NAME, storage=storage).trials[:4]
    complete, pruned, infeasible, failed = told
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    assert complete.values == [60 / N, 10.0]
    assert pruned.values is None
    reached = bench.run.read_trial(1).figures["accuracy"]
    assert pruned.user_attrs["accuracy"] == {
        "value": reached.value,
        "low": reached.low,
        "high": reached.high,
        "n": reached.n,
    }
    assert infeasible.constraints == {"latency_p50_ms.max": pytest.approx(0.2)}
    assert failed.user_attrs["reason"] == "CRASH: it died"


def test_a_study_of_raced_out_trials_goes_on(tmp_path: Path, bench: Bench) -> None:
    axes = {"model": {"path": "a"}, "runtime": {"threads": list(range(1, 65))}}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    study = Study(tmp_path / "wide.journal", load_space(tmp_path / "wide.yaml", builtin()), ["maximize"] * 2, seed=0)
    for number in range(40):
        asked = study.ask()
        assert asked is not None
        if number:
            study.prune(asked.number, "behind", {"value": 0.5, "low": 0.1, "high": 0.9, "n": 8}, {"size_mb.max": -0.5})
        else:
            study.tell(asked.number, [0.5, 0.5], {"size_mb.max": -0.5})


@pytest.mark.parametrize(
    "figure",
    [
        0.5,
        None,
        Figure(value=float("nan")),
        Figure(value="x"),  # type: ignore[arg-type]
        Figure(value=True),
        Figure(value=1.0, low=float("-inf")),
        Figure(value=1.0, n=1.5),  # type: ignore[arg-type]
    ],
)
def test_an_objective_that_gives_no_figure_is_a_failed_trial(bench: Bench, figure: Any) -> None:
    odd = Definition(name="odd", label="Odd", unit="", direction="min", relative=False, derive=lambda _: figure)
    found = bench.try_(bench.evaluator(known={**OBJECTIVES, "odd": odd}), 0, "a", "fp16")
    assert found.state == "failed"
    assert found.reason.startswith("the objective odd broke: TypeError: a Figure of finite numbers is expected, not ")
    assert bench.run.read_trial(0) == found


def test_a_plug_in_that_breaks_is_a_failed_trial(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_objective.py").write_text(
        "from objectives.registry import Definition\nfrom objectives.trial import Figure\n"
        "def length(o): return Figure(value=len(o.answers[0]) if o.answers else None)\n"
        "def broken(o): return 1 / len(o.samples)\n"
        "common = dict(unit='', direction='min', relative=False)\n"
        "LENGTH = Definition(name='length', label='Length', derive=length, **common)\n"
        "BROKEN = Definition(name='broken', label='Broken', derive=broken, **common)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    works = bench.evaluator(objectives=("accuracy", "length"), known=available(["my_objective:LENGTH"]))
    assert bench.try_(works, 0, "a", "fp16").figures["length"].value == 3
    found = bench.try_(bench.evaluator(known=available(["my_objective:BROKEN"])), 1, "a", "fp16")
    assert (found.state, found.reason) == (
        "failed",
        "the objective broken broke: ZeroDivisionError: division by zero",
    )
