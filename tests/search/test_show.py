"""What the person at the terminal sees of a search that goes on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from objectives.run import RunFolder
from objectives.trial import DeviceResult, Trial
from search import show
from search.engine import Outcome


def test_going_on_says_what_waited_and_what_was_caught_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", {"devices": {"pi": {"predicted": True}, "jetson": {"predicted": True}}})
    away = DeviceResult(state="missing")
    for number in range(3):
        devices = {"pi": away, "jetson": away if number == 0 else DeviceResult(state="measured")}
        trial = Trial(number=number, candidate_id=str(number), candidate={}, state="complete", devices=devices)
        run.write_trial(trial)

    def search(*_: Any) -> Outcome:
        for trial in run.read_trials()[:2]:
            run.write_trial(replace(trial, devices={**trial.devices, "pi": DeviceResult(state="measured")}))
        return Outcome(ended="budget", told=3, seconds=1.0)

    monkeypatch.setattr(show, "search", search)
    fleet = SimpleNamespace(devices={"pi": None}, heard=[], says=None)
    prepared: Any = SimpleNamespace(run=run, fleet=fleet, config=SimpleNamespace(budget=SimpleNamespace(trials=3)))
    console = Console(width=200, record=True)
    with console.capture() as captured:
        show._search(prepared, console)
    said = captured.get().splitlines()
    assert "3 trials wait for pi: it is there, so this comes first" in said
    assert "1 trial waits for jetson: it is still away" in said
    assert said[-2:] == [
        "Caught up on pi: 2 of 3 trials measured that had waited for it",
        "Caught up on jetson: 0 of 1 trial measured that had waited for it",
    ]
