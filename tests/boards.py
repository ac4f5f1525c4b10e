"""Boards as file trees, from listings in tests/hardware_profiles/agent/sensors; and runners that are scripts."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.supervisor import Heard
from hardware_profiles.agent.trace import LEAST_S
from hardware_profiles.messages import Job, Request

LISTINGS = Path(__file__).parent / "hardware_profiles" / "agent" / "sensors"
Board = Callable[[str], Path]

SPEAKS = """
import json, sys, time
from pathlib import Path
def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)
def put(path, text):
    Path(path).write_text(str(text))
def timing(e2e_ms, tokens=3):
    marks = [e2e_ms * (place + 1) / max(tokens, 1) for place in range(tokens)]
    parts = dict(preprocess_ms=None, vision_ms=None, prefill_ms=None, ttft_ms=marks[0] if marks else e2e_ms)
    say("timing", timing=dict(id="0", text="x", e2e_ms=e2e_ms, token_ms=marks, **parts))
def enter(phase):
    say("phase", phase=phase)
    while GO and not Path(GO + phase).exists():
        time.sleep(0.002)
def begin():
    say("phase", phase="load")
    say("loaded", load_s=0.5, memory_baseline_bytes=100, properties={})
    enter("warmup")
    say("warm", first_ms=9.0, warmup_answers=11, properties={})
def work(seconds=0.0, answers=11, tokens=3, meanwhile=lambda: None):
    began = time.monotonic()
    enter("work")
    meanwhile()
    time.sleep(seconds)
    say("worked", began_s=began, ended_s=time.monotonic())
    for row in range(answers):
        timing(10.0 + row / 100, tokens)
    say("done", memory_peak_bytes=300, properties={})
"""


def script(code: str, go: Path | None = None) -> tuple[str, ...]:
    """A runner that does this; ``begin`` and ``work`` speak like a real one.

    ``go``: where it waits for the files of :func:`lets_go`, so that what it does falls between two looks for certain.
    """
    return (sys.executable, "-I", "-c", f"GO = {str(go) if go else ''!r}\n{SPEAKS}{code}")


def lets_go(go: Path) -> Heard:
    """Lets a script go on once its measurement has heard of a phase, and looked."""

    def heard(event: str, content: Mapping[str, Any]) -> None:
        if event == "runner":
            for left in go.parent.glob(go.name + "*"):
                left.unlink()
        if event == "phase":
            go.with_name(go.name + content["phase"]).touch()

    return heard


def lay_out(listing: str, root: Path) -> Path:
    """The file tree of a listing: ``path = value`` lines."""
    for line in (LISTINGS / f"{listing}.txt").read_text().splitlines():
        path, equals, value = line.partition(" = ")
        if equals and not line.startswith("#"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(value + "\n")
    return root


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Lays out the board of a listing; it has no /proc, so that no load of the machine under test is seen."""
    return lambda listing: lay_out(listing, tmp_path / listing)


@pytest.fixture
def timed_job(tmp_path: Path) -> Job:
    """A job that times one question of a bundle that scripts do not look at."""
    requests = (Request(id="0", image="/nowhere.png", question="what ?"),)
    limits = {"load": 30.0, "warmup": 30.0, "work": 30.0}
    return Job(kind="measure", bundle=str(tmp_path / "no-bundle"), requests=requests, deadline_s=limits)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle power and cool-down are waited for briefly, and so is a power sensor."""
    monkeypatch.setattr("hardware_profiles.agent.trace.LEAST_S", dict.fromkeys(LEAST_S, 0.1))
    monkeypatch.setattr("hardware_profiles.agent.measure.IDLE_S", 0.15)
    monkeypatch.setattr("hardware_profiles.agent.measure.COOL_S", 0.2)
    monkeypatch.setattr("hardware_profiles.agent.measure.BUSY_S", 0.2)
    monkeypatch.setattr("hardware_profiles.agent.measure.COOL_STEP_S", 0.05)
