"""One measurement of a bundle on this device: fresh processes, their raw samples, and a verdict on each."""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hardware_profiles.agent import proc
from hardware_profiles.agent.confine import Confine
from hardware_profiles.agent.facts import settings
from hardware_profiles.agent.machine import Snapshot, snapshot
from hardware_profiles.agent.sensors import PI_SINCE_BOOT, Sensors
from hardware_profiles.agent.supervisor import RUNNER, Cancelled, Heard, run_job, unheard
from hardware_profiles.agent.trace import Trace
from hardware_profiles.agent.verdicts import Verdict, Watched, judge, on_cpu, outliers, trend, void
from hardware_profiles.messages import Job, Measurement, Mode, Process

FINALIST_PROCESSES = 5
ATTEMPTS = 3  # at each process, while it is invalid
IDLE_S = 2.5  # of idle power, before a process starts, where there is an energy meter
COOL_S = 60.0  # at most, until it is cool between two attempts
BUSY_S = 5.0  # at most, until foreign work is over: what has not ended by then may last for hours
COOL_STEP_S = 1.0
WARMER_C = 3.0
"""Above what it was at first is cool enough. Our choice, unverified on a device that throttles: more than the steps of
1 degree in which many sensors read, so that the wait ends, and far less than what a device warms up by at work."""


def measure(
    job: Job,
    *,
    mode: Mode = "provisional",
    cancel: threading.Event | None = None,
    command: Sequence[str] = RUNNER,
    sensors: Sensors | None = None,
    heard: Heard = unheard,
    confine: Confine | None = None,
) -> Measurement:
    """Measure ``job``'s bundle in one fresh process, or in ``FINALIST_PROCESSES`` of them, one after another.

    A process whose answers are invalid is followed by a pause until the device has recovered, and by another process in
    its place, ``ATTEMPTS`` in all; one alone, after a process where all were in vain. If each of them was disturbed,
    the fastest is kept, since a disturbance takes time and gives none back; it is labelled, and the p50 of the others
    comes with it. What is void (:func:`void`) is not kept so: it makes the measurement invalid and ends it.

    Raises:
        JobFailed, Cancelled: as :func:`hardware_profiles.agent.supervisor.run_job`.
    """
    watch = _Watch(job, cancel or threading.Event(), command, sensors or Sensors(), confine, heard)
    number = 1 if mode == "provisional" else FINALIST_PROCESSES
    with watch.trace:
        while len(watch.processes) < number and watch.verdict != "invalid":
            watch.measure_process()
            heard("process", {"done": len(watch.processes), "of": number})
    return Measurement(
        verdict=watch.verdict,
        reasons=tuple(dict.fromkeys(watch.reasons)),
        mode=mode,
        processes=tuple(watch.processes),
        energy_source=watch.energy_source,
        trace=watch.trace.readings,
        platform=watch.platform,
        retries=tuple(watch.retries),
        regime="sustained" if job.sustained_s > 0 else "burst",
    )


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One process, and what is to be said of it."""

    process: Process
    verdict: Verdict
    reasons: tuple[str, ...]
    void: bool
    energy_source: str

    @property
    def p50_ms(self) -> float:
        return statistics.median(timing.e2e_ms for timing in self.process.timings)


def _kept(attempts: Sequence[_Attempt]) -> _Attempt:
    """The last attempt, or the fastest of those that were all disturbed, labelled."""
    usable = [one for one in attempts if not one.void]
    if attempts[-1].verdict != "invalid" or not usable:
        return attempts[-1]
    best = min(usable, key=lambda one: one.p50_ms)
    others = tuple(one.p50_ms for one in usable if one is not best)
    tries = f"in each of {len(attempts)} attempts" if len(attempts) > 1 else "too"
    reasons = (f"disturbed {tries}: {best.reasons[0]}", *best.reasons[1:])
    process = replace(best.process, disturbed_p50_ms=others)
    return replace(best, process=process, verdict="labelled", reasons=reasons)


class _Watch:
    """A measurement in the making: the processes so far, and what is to be said of them."""

    def __init__(
        self,
        job: Job,
        cancel: threading.Event,
        command: Sequence[str],
        sensors: Sensors,
        confine: Confine | None,
        heard: Heard,
    ) -> None:
        self.processes: list[Process] = []
        self.verdict: Verdict = "valid"
        self.reasons: list[str] = []
        self.retries: list[str] = []
        self.platform = {**settings(sensors.root), "boot_id": snapshot(sensors.root, 0).boot_id}
        self.trace = Trace(sensors)
        self.energy_source = self.trace.source
        self._job, self._cancel, self._command, self._confine = job, cancel, command, confine
        self._sensors, self._heard = sensors, heard
        self._snapshots: list[Snapshot] = []
        self._scheduled: list[tuple[float, proc.Scheduled]] = []  # CLOCK_MONOTONIC, proc.scheduled_s
        self._runner = 0
        self._in_vain = False  # what disturbed every attempt at the last process is not waited for again

    def measure_process(self) -> None:
        """Take one process in, after as many attempts as it takes or may take."""
        attempts: list[_Attempt] = []
        allowed = 1 if self._in_vain else ATTEMPTS
        while len(attempts) < allowed:
            attempts.append(self._attempt())
            last = attempts[-1]
            if last.verdict != "invalid":
                break
            if len(attempts) < allowed:
                self.retries.append("; ".join(last.reasons))
                self._cool_down()
        self._in_vain = last.verdict == "invalid"
        kept = _kept(attempts)
        if kept.process.energy_j is None or not self.processes or self.processes[-1].energy_j is not None:
            self.energy_source = kept.energy_source  # of a process without a figure: why there is none
        self.processes.append(kept.process)
        self.reasons += kept.reasons
        self.verdict = kept.verdict if kept.verdict == "invalid" or self.verdict == "valid" else self.verdict

    def _attempt(self) -> "_Attempt":
        idle_w = self._idle_watts()
        self._snapshots.clear()
        self._scheduled.clear()
        process = run_job(
            self._job, cancel=self._cancel, command=self._command, heard=self._hear, confine=self._confine
        )
        assert isinstance(process, Process)
        began_s, ended_s = self.trace.at(process.began_s), self.trace.at(process.ended_s)
        joules, source = self.trace.joules(began_s, ended_s)
        if joules is not None and idle_w is not None:
            joules = (joules - idle_w * (ended_s - began_s)) / len(process.timings)
        process = replace(
            process,
            began_s=began_s,
            ended_s=ended_s,
            energy_j=joules if idle_w is not None else None,
            idle_w=idle_w,
            outliers=outliers([timing.e2e_ms for timing in process.timings]),
            trend=trend(process.timings) if self._job.sustained_s > 0 else None,
        )
        before, after = self._snapshots[0], self._snapshots[-1]
        readings = self.trace.between(self.trace.at(before.at_s), self.trace.at(after.at_s))
        (began_s, at_first), (ended_s, at_last) = self._scheduled[0], self._scheduled[-1]
        ran_s, waited_s = proc.at_work(at_first, at_last)
        watched = Watched(
            before=before,
            after=after,
            readings=readings,
            timings=process.timings,
            trend=process.trend,
            work_s=ended_s - began_s,
            ran_s=ran_s,
            waited_s=waited_s,
        )
        verdict, reasons = judge(watched)
        return _Attempt(process=process, verdict=verdict, reasons=reasons, void=void(watched), energy_source=source)

    def _hear(self, event: str, content: Mapping[str, Any]) -> None:
        """Look at everything when a runner is warm to answer, when it works and when it has worked."""
        if event == "runner":
            self._runner = content["pid"]
        if event == "worked" or content.get("phase") == "work":
            tasks = self._snapshots[0].tasks if self._snapshots else {}
            runners = {self._runner, *(pid for pid, task in tasks.items() if task.whose == "runner")}
            self._scheduled.append((time.monotonic(), proc.scheduled_s(runners, self._sensors.root / "proc")))
            self.trace.look()
        if event == "worked" or content.get("phase") == "warmup":
            self._snapshots.append(self._snapshot(self._runner))
        if event != "worked":
            self._heard(event, content)

    def _snapshot(self, runner: int) -> Snapshot:
        gpus = self._sensors.gpus
        return snapshot(
            self._sensors.root,
            runner,
            counters=self._sensors.counters(),
            accelerator=gpus.pids() if gpus else frozenset(),
        )

    def _idle_watts(self) -> float | None:
        """The power while nothing of ours runs, over ``IDLE_S``; null where nothing measures energy."""
        if not self.trace.measures_energy:
            return None
        self.trace.look()
        start = time.monotonic()
        self._wait(IDLE_S)
        end = time.monotonic()
        self.trace.look()
        joules, _ = self.trace.joules(self.trace.at(start), self.trace.at(end))
        return None if joules is None else joules / (end - start)

    def _cool_down(self) -> None:
        """Wait until nothing throttles and it is as cool as at first, and for the end of foreign work; both bounded."""
        first = next((one.temperature_c for one in self.trace.readings if one.temperature_c is not None), None)
        began = time.monotonic()
        while time.monotonic() < began + COOL_S:
            before = self._snapshot(0)
            self._wait(COOL_STEP_S)
            last = self.trace.readings[-1]
            hot = first is not None and last.temperature_c is not None and last.temperature_c > first + WARMER_C
            busy = time.monotonic() < began + BUSY_S and on_cpu(Watched(before=before, after=self._snapshot(0)))
            if not hot and not busy and not set(last.flags) - set(PI_SINCE_BOOT.values()):
                return

    def _wait(self, seconds: float) -> None:
        if self._cancel.wait(seconds):
            raise Cancelled(f"the measurement of {self._job.bundle} was cancelled")
