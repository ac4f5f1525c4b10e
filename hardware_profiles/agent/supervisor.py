"""The supervisor's side of a runner: starts it, holds it to its deadlines, makes a typed result or fault of its end."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias, TypeVar

from hardware_profiles.agent import proc
from hardware_profiles.agent.confine import Confine, plan
from hardware_profiles.agent.groups import Group
from hardware_profiles.messages import (
    LINE_BYTES,
    Answer,
    Answered,
    Fault,
    Job,
    JobFailed,
    Process,
    Timing,
    Unkillable,
    encode,
)
from hardware_profiles.wire import Malformed, build

RUNNER = (sys.executable, "-I", "-m", "hardware_profiles.agent.runner")
GRACE_S = 2.0  # between SIGTERM and SIGKILL
GONE_S = 5.0  # within which a killed group must have vanished
_PROCESS_FACTS = (
    "load_s", "first_ms", "warmup_answers", "memory_peak_bytes", "memory_baseline_bytes", "began_s", "ended_s",
    "accelerator_peak_bytes",
)  # fmt: skip
_TICK_S = 0.1
_STDERR_TAIL = 600
T = TypeVar("T")

Enough: TypeAlias = Callable[[Sequence[Answer]], bool]
"""Is handed the answers that came since its last call; whether the job may end with those that it has."""
Heard: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Is told at once of an event of the job, by name and content (``phase``: ``{"phase": "work"}``); must not block.

The first of every runner is ``runner``: ``{"pid": 4711}``."""


def unheard(event: str, content: Mapping[str, Any]) -> None:
    """Nobody listens."""


class Cancelled(Exception):
    """The caller's ``cancel`` event was set; the runner is gone."""


def run_job(
    job: Job,
    *,
    cancel: threading.Event | None = None,
    enough: Enough | None = None,
    command: Sequence[str] = RUNNER,
    heard: Heard = unheard,
    confine: Confine | None = None,
) -> Answered | Process:
    """Run a job in a fresh process group and wait for its result. May be called from any thread.

    ``cancel`` is set from another thread to stop the job; ``enough`` may end an ``answer`` job early, whose result then
    has the answers up to there; ``command`` is what is started as the runner.

    Raises:
        JobFailed: ``OOM``, ``CRASH`` (with the signal's name), ``TIMEOUT`` (with the phase that fell silent, or
            the total), ``INVALID_INPUT``.
        Unkillable: a process of the runner outlived SIGKILL.
        Cancelled: after ``cancel`` was set.
    """
    planned, kills = plan(job, command, confine or Confine()), proc.oom_kills()
    try:
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as printed:
            asked.write(encode(job).encode() + b"\n")
            asked.seek(0)
            runner = subprocess.Popen(
                planned.command,
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=printed,
                start_new_session=True,
                env=planned.environment,
            )
            assert runner.stdout is not None
            try:
                heard("runner", {"pid": runner.pid})
                said = _listen(runner.stdout.fileno(), job, cancel or threading.Event(), enough, heard)
                if not said.ended:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        runner.wait(GONE_S)
            finally:
                runner.stdout.close()
                stop_group(runner)
            if not said.ended:
                raise _death(runner.returncode, printed, kills, planned.group)
            peak = planned.group.peak_bytes if planned.group else None
        properties = {**planned.isolation, **({"memory.group_peak": str(peak)} if peak else {})}
        return said.answered(properties) if job.kind == "answer" else said.process(properties)
    except Malformed as error:
        raise JobFailed("CRASH", f"the runner sent an event that is not as it should be: {error}") from None
    finally:
        if planned.group:
            planned.group.remove()


def stop_group(runner: "subprocess.Popen[bytes]") -> None:
    """End every process of the runner's session: SIGTERM, then SIGKILL, then look whether they are gone.

    Raises:
        Unkillable: one outlives SIGKILL.
    """
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GONE_S)):
        if not _signal_group(runner.pid, number):
            break
        end = time.monotonic() + patience
        while time.monotonic() < end and _group_lives(runner):
            time.sleep(0.01)
        if not _group_lives(runner):
            break
    else:
        raise Unkillable("CRASH", f"the runner's process group {runner.pid} outlived SIGKILL")
    runner.wait()


class _Said:
    """What a runner has said so far."""

    def __init__(self) -> None:
        self.last = ""
        self.cut_short = False
        self._facts: dict[str, Any] = {}
        self._properties: dict[str, str] = {}
        self._answers: list[Answer] = []
        self._timings: list[Timing] = []
        self._work_began = 0.0

    @property
    def ended(self) -> bool:
        return self.cut_short or self.last == "done"

    def take(self, event: Mapping[str, Any]) -> Sequence[Answer]:
        """Take an event in; the answers that came with it.

        Raises:
            JobFailed: it is the runner's own fault.
            Malformed: it is not as it should be.
        """
        self.last = event["event"]
        if self.last == "fault":
            raise JobFailed(build(Fault, event.get("fault"), "fault"), build(str, event.get("reason"), "reason"))
        if self.last == "answers":
            came: tuple[Answer, ...] = build(tuple[Answer, ...], event.get("answers"), "answers")
            self._answers += came
            return came
        if self.last == "timing":
            self._timings.append(build(Timing, event.get("timing"), "timing"))
        else:
            self._properties |= build(Mapping[str, str], event.get("properties", {}), "properties")
            self._facts |= event
        if event.get("phase") == "work":
            self._work_began = time.monotonic()
        return ()

    def answered(self, properties: Mapping[str, str]) -> Answered:
        work_s = time.monotonic() - self._work_began
        facts = {"work_s": work_s, "memory_peak_bytes": None, **self._facts, "answers": []}
        return replace(self._built(Answered, facts, properties), answers=tuple(self._answers))

    def process(self, properties: Mapping[str, str]) -> Process:
        if not self._timings:
            raise Malformed("it timed no answer")
        facts = {name: self._facts[name] for name in _PROCESS_FACTS if name in self._facts}
        facts |= {"timings": [], "energy_j": None, "idle_w": None}
        return replace(self._built(Process, facts, properties), timings=tuple(self._timings))

    def _built(self, kind: type[T], facts: Mapping[str, Any], properties: Mapping[str, str]) -> T:
        made: T = build(kind, {**facts, "properties": {**self._properties, **properties}}, kind.__name__)
        return made


def _listen(handle: int, job: Job, cancel: threading.Event, enough: Enough | None, heard: Heard) -> _Said:
    """Read events until the last one, enough of them, or the end of the stream; each restarts its phase's deadline."""
    said, rest, phase = _Said(), b"", "load"
    limit = time.monotonic() + job.deadline_s[phase]
    last = time.monotonic() + job.total_s
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while not said.ended:
            if cancel.is_set():
                raise Cancelled(f"the job on {job.bundle} was cancelled")
            if time.monotonic() > last:
                raise JobFailed("TIMEOUT", f"{phase} went on, but the job had taken {job.total_s:g} s in all")
            if time.monotonic() > limit:
                raise JobFailed("TIMEOUT", f"nothing was heard of {phase} for {job.deadline_s[phase]:g} s")
            if not selector.select(min(_TICK_S, max(limit - time.monotonic(), 0.001))):
                continue
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES:
                raise JobFailed("CRASH", f"the runner sent a line longer than {LINE_BYTES} bytes")
            for line in lines:
                event = _decode(line)
                came = said.take(event)
                said.cut_short = bool(came and enough and enough(came))
                if event["event"] == "phase":
                    phase = build(str, event.get("phase"), "phase")
                    if phase not in job.deadline_s:
                        raise Malformed(f"there is no phase {phase[:60]!r}")
                    heard("phase", {"phase": phase})
                elif event["event"] == "worked":
                    heard("worked", {})
                limit = time.monotonic() + job.deadline_s[phase]
                if said.cut_short:
                    break
    return said


def _decode(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JobFailed("CRASH", f"the runner sent {line[:80]!r}, which is no event") from error
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise JobFailed("CRASH", f"the runner sent {line[:80]!r}, which is no event")
    return event


def _death(code: int, printed: BinaryIO, kills: int, group: Group | None) -> JobFailed:
    """The fault of a runner that ended without its last event."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _STDERR_TAIL))
    tail = " ".join(printed.read().decode(errors="replace").split())
    if group and group.oom_kills:
        peak, limit = (group.peak_bytes or 0) >> 20, group.limit_bytes >> 20
        return JobFailed("OOM", f"the kernel killed the runner at a peak of {peak} MiB, limit {limit} MiB")
    if code >= 0:
        return JobFailed("CRASH", f"the runner ended with exit code {code}: {tail}")
    name = signal.Signals(-code).name
    if name == "SIGKILL" and proc.oom_kills() > kills:
        return JobFailed("OOM", "the kernel killed the runner (SIGKILL) because memory ran out")
    if name == "SIGXCPU":
        return JobFailed("TIMEOUT", "the runner used up its processor time (RLIMIT_CPU)")
    if "bad_alloc" in tail:
        return JobFailed("OOM", f"memory ran out ({name}): {tail}")
    return JobFailed("CRASH", f"the runner died of {name}: {tail}")


def _signal_group(session: int, number: int) -> bool:
    """Signal every process group of the runner's session, also that of a server it started; whether there was one."""
    groups = _groups(session)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
    return bool(groups)


def _group_lives(runner: "subprocess.Popen[bytes]") -> bool:
    """Whether any process of the runner's session still runs; a dead one that nobody has reaped does not count."""
    runner.poll()
    return bool(_groups(runner.pid))


def _groups(session: int) -> set[int]:
    """The process groups of a session that have a running process."""
    return {one.group for one in proc.processes() if one.session == session and one.runs}
