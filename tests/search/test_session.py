"""Whole searches on a tiny model, through the command line, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hardware_profiles.bundle import open_bundle
from objectives.metrics import METRICS
from objectives.normal import normalise
from objectives.run import RunFolder
from objectives.task import load_task, read_split
from objectives.trial import Trial
from search.study import NAME
from tests.project import lasting

COMMAND = (sys.executable, "-m", "search.cli")
LIMIT_S = 240


def vlmfront(*arguments: object, code: int = 0) -> Any:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "leaked" not in done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def states(run: Path) -> list[TrialState]:
    storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
    return [trial.state for trial in optuna.load_study(study_name=NAME, storage=storage).trials]


def test_a_search_from_its_files_to_an_answer(project: Callable[..., Path], tiny_images: list[Path]) -> None:
    config = project(
        limits={"size_mb": {"max": 1000}, "agreement": {"min": 0}, "forgetting": {"max": 1}},
        retention={"task": "task.yaml", "split": "train", "items": 5},
        racing=False,
    )
    folder = config.parent / "run"
    found = vlmfront("search", config, "--run", folder)
    assert found["trials"] == 4
    assert found["ended"] == "budget"
    assert found["front"]["members"]
    assert (folder / "report.html").stat().st_size > 1_000_000
    run = RunFolder.open(folder)
    task = load_task(config.parent / "task.yaml")
    samples = read_split(task, "search")
    for trial in run.read_trials():
        assert trial.state == "complete", trial.reason
        answers = run.read_answers(trial.number)
        scores = [METRICS["exact"](answer.answer, sample) for answer, sample in zip(answers, samples, strict=True)]
        assert trial.figures["accuracy"].value == sum(scores) / len(scores)
        assert [answer.id for answer in answers] == [sample.id for sample in samples]
        measurement = run.read_measurement(trial.deployed, "local")
        assert measurement is not None
        e2e = sorted(timing.e2e_ms for timing in measurement.timings)
        middle = (e2e[(len(e2e) - 1) // 2] + e2e[len(e2e) // 2]) / 2
        assert trial.figures["latency_p50_ms"].value == pytest.approx(middle)
        bundle = open_bundle(run.bundle(trial.number))
        assert dict(bundle.manifest.candidate) == dict(trial.candidate)
        size = sum(path.stat().st_size for path in run.bundle(trial.number).iterdir() if path.name != "manifest.json")
        assert trial.figures["size_mb"].value == size / 1e6
        _held_against_the_own_model(run, trial)
    assert {baseline.name for baseline in run.read_baselines()} == {"commonest_answer", "blank_image"}
    assert len(run.read_references("local")) >= 3
    _the_same_stage_is_built_once(run)
    _picking_exporting_and_asking(folder, tiny_images[0])
    _going_on(config, folder)


def _held_against_the_own_model(run: RunFolder, trial: Trial) -> None:
    """Each model's first trial is the model as it comes, so its answers are what the others are held against."""
    model = trial.candidate["model.path"]
    first = next(one for one in run.read_trials() if one.candidate["model.path"] == model)
    own, told = run.read_answers(trial.number), run.read_answers(first.number)
    equal = sum(normalise(a.answer) == normalise(b.answer) for a, b in zip(own, told, strict=True))
    assert trial.figures["agreement"].value == equal / len(own)
    assert first.figures["agreement"].value == 1.0
    assert first.figures["forgetting"].value == 0.0
    assert trial.figures["retention"].n == trial.figures["forgetting"].n == 5
    assert len(list((run.path / "references").glob("*.json"))) <= 2


def _the_same_stage_is_built_once(run: RunFolder) -> None:
    built = [stage.key for trial in run.read_trials() for stage in trial.stages if not stage.reused]
    assert len(built) == len(set(built))
    assert len({stage.key for trial in run.read_trials() for stage in trial.stages}) == len(built)


def _picking_exporting_and_asking(folder: Path, image: Path) -> None:
    first = vlmfront("pick", folder, "--prefer", "latency", "--max", "size_mb=999")
    assert first["holdout"]["accuracy"]["n"] == 24
    assert first["holdout"]["repeat"] is False
    assert vlmfront("pick", folder, "--prefer", "accuracy")["holdout"]["repeat"] is True
    out = folder.parent / "deployed"
    exported = vlmfront("export", folder, first["trial"], out)
    assert exported["files"] == len(open_bundle(out).manifest.files)
    asked = ("run", out, "--image", image, "--question", "what colour is this ?", "--field", "kind=colour")
    assert vlmfront(*asked)["answer"] == vlmfront(*asked)["answer"]
    vlmfront("export", folder, first["trial"], out, code=2)


def _going_on(config: Path, folder: Path) -> None:
    run = RunFolder.open(folder)
    before, reference = run.read_trials(), run.read_references("local")[0].trial
    found = vlmfront("search", config, "--run", folder, "--resume", "--budget", "6trials")
    assert found["trials"] == 6
    after = RunFolder.open(folder).read_trials()
    assert after[:4] == before
    assert {one.trial for one in run.read_references("local")} == {reference}
    ids = [trial.candidate_id for trial in after]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_stopped_goes_on_where_it_was(sent: signal.Signals, project: Callable[..., Path]) -> None:
    config = project(budget="1h", workers=1)
    folder = config.parent / "run"
    process = _started(config, folder)
    end = time.monotonic() + LIMIT_S
    while len(list((folder / "trials").glob("[0-9]*.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if sent is signal.SIGINT else -sent)
    assert b"Traceback" not in printed
    assert (b"--resume" in printed) == (sent is signal.SIGINT)
    _no_process_is_left(folder)
    before = RunFolder.open(folder).read_trials()
    vlmfront("search", config, "--run", folder, "--resume", "--budget", f"{len(before) + 1}trials")
    after = RunFolder.open(folder).read_trials()
    assert list(map(lasting, after[: len(before)])) == list(map(lasting, before))
    assert len(after) == len(before) + 1
    ended = states(folder)
    assert TrialState.RUNNING not in ended
    assert ended.count(TrialState.COMPLETE) == len(after)


def test_ctrl_c_in_the_first_seconds_is_no_traceback(project: Callable[..., Path]) -> None:
    config = project()
    folder = config.parent / "run"
    process = _started(config, folder)
    while not (folder / "study.journal").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert b"Traceback" not in printed
    _no_process_is_left(folder)


def _started(config: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """A search in a session of its own; its processes are known by a variable that they inherit.

    What ignores Ctrl-C, as a job in the background does, hands that down, so it is undone.
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, "search", str(config), "--run", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"VLMFRONT_TEST": str(folder)},
    )


def _no_process_is_left(folder: Path) -> None:
    """Neither a worker nor a runner, in whatever process group, lives on."""
    mark = f"VLMFRONT_TEST={folder}".encode()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        left = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    left.append(path.parent.name)
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of the search outlived it: {left}")
