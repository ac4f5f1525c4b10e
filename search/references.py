"""One bundle on each device, measured again and again: it shows drift, and how well a p50 repeats there."""

import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

from hardware_profiles.messages import JobFailed
from objectives.latency import undisturbed
from objectives.run import RunFolder
from objectives.trial import Trial
from search.fleet import Lost
from search.measuring import Measuring, at_once

EVERY = 8
"""A reference is measured again after this many trials."""
_FIRST = 3
"""Measurements taken at once when it is chosen: a spread needs three."""


class References:
    """The reference trial of each device of a run: the first that it could measure."""

    def __init__(self, run: RunFolder, measuring: Measuring) -> None:
        self._run = run
        self._measuring = measuring
        self._lock = Lock()
        self._trial = {name: found[-1].trial for name in measuring.fleet.names if (found := run.read_references(name))}

    def due(self, trial: Trial, told: int) -> Mapping[str, int]:
        """How often each device has to measure its reference now that this trial, the ``told``-th, is told."""
        due = {}
        with self._lock:
            for name, result in trial.devices.items():
                if name in self._trial:
                    due[name] = self._lacking(name) if told % EVERY == 0 else 0
                elif result.state == "measured" and trial.state == "complete":
                    self._trial[name] = trial.number
                    due[name] = _FIRST
        return {name: times for name, times in due.items() if times}

    def _lacking(self, name: str) -> int:
        """As many measurements as a spread still needs, one at least."""
        return max(1, _FIRST - sum(undisturbed(one.measurement) for one in self._run.read_references(name)))

    def measure(self, due: Mapping[str, int]) -> None:
        """Measure references as often as is due, each device its own at the same time. One that cannot is passed over.

        Raises:
            Interrupted, Cancelled: the search was stopped.
        """
        at_once(due, lambda name: self._measure(name, due[name]))

    def _measure(self, name: str, times: int) -> None:
        number = self._trial.get(name)
        if number is None:
            return
        with suppress(JobFailed, Lost):
            for _ in range(times):
                with self._measuring.fleet.turn(name) as device:
                    bundle = self._run.bundle(number)
                    ordinal = 1 + len(self._run.read_references(name))  # 0 is the trial's own measurement
                    found, _ = self._measuring.measured(device, bundle, "provisional", time.monotonic(), ordinal)
                    self._run.log_reference(number, name, found)
