"""A search killed with SIGKILL at many moments: no finished trial is lost or told twice, and it goes on each time."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hardware_profiles.bundle import open_bundle
from hardware_profiles.store import Store
from objectives.run import RunFolder
from objectives.trial import Trial
from search.study import NAME
from tests.project import lasting

KILLS = 25


@pytest.mark.slow
def test_a_search_killed_again_and_again_loses_nothing(project: Callable[..., Path]) -> None:
    config = project(budget="16trials")
    folder = config.parent / "run"
    rng = random.Random(0)
    known: dict[int, Trial] = {}
    for attempt in range(KILLS):
        command = [sys.executable, "-m", "search.cli", "search", str(config), "--run", str(folder)]
        resume = ["--resume"] if folder.exists() else []
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(2 + 14 * rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if not folder.exists():
            continue
        trials = {trial.number: trial for trial in RunFolder.open(folder).read_trials()}
        assert {number: trials.get(number) for number in known} == known, f"after kill {attempt}"
        known = dict(trials)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    trials = {trial.number: trial for trial in RunFolder.open(folder).read_trials()}
    assert {number: lasting(trials[number]) for number in known} == {number: lasting(known[number]) for number in known}
    assert len(trials) == len({trial.candidate_id for trial in trials.values()}) == 16
    study = optuna.load_study(
        study_name=NAME, storage=JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    )
    told = [trial.number for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert sorted(told) == sorted(trials)
    assert not [trial for trial in study.trials if trial.state is TrialState.RUNNING]
    for number in trials:
        open_bundle(RunFolder.open(folder).bundle(number))
    store = Store(config.parent / "store")
    for path in (config.parent / "store" / "entries").iterdir():
        assert store.get(path.stem) is not None
