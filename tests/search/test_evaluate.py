"""The way of a trial with everything slow replaced: bundles are folders with a candidate, answers come from a table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.messages import JobFailed
from objectives.accuracy import paired_difference, wilson
from objectives.registry import OBJECTIVES, Definition, available
from objectives.trial import Figure, Trial
from reports.front import front
from search.engine import settle, tell
from search.executors import Interrupted
from search.study import NAME, Study
from spaces.plugins import builtin
from spaces.reader import load_space
from tests.bench import LATENCY, OBJECTIVE_NAMES, Bench, N
from tests.double import CHUNK


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
