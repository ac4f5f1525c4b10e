"""What is measured after its trial was written: on devices that came back, and the finalists of each front."""

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any

from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import JobFailed, Measurement
from objectives import pareto
from objectives.memory import BYTES_PER_MB
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import as_values, front_of
from reports.words import figure_of
from search.evaluate import Evaluator
from search.fleet import Lost
from search.measuring import in_words
from search.progress import Progress
from search.references import References
from search.room import bundle_of
from search.unmodified import hold_against
from spaces.errors import BadInput

FINALISTS = 12
"""Members of a device's front that are measured as finalists, those nearest its knee first: this bounds the cost."""
SHARE = 0.15
"""Of a budget in time, what is kept for the finalists; those that it does not suffice for stay provisional."""
_REFERENCE_AFTER = 4
"""Finalists between two measurements of the reference, which is also measured first and last."""


class Late:
    """Measures trials of a run that are on record already, and puts what it learns there."""

    def __init__(self, run: RunFolder, evaluator: Evaluator, references: References) -> None:
        self._run = run
        self._evaluator = evaluator
        self._references = references
        self._writing = Lock()

    def catch_up(self, told: Callable[[Trial], None]) -> None:
        """Measure what waits for a device that is within reach; ``told`` hears of each trial that waits no longer.

        Raises:
            Interrupted, Cancelled: the search was stopped.
        """
        within = self._evaluator.measuring.fleet.devices
        for trial in self._run.read_trials():
            late = trial
            for name in trial.waits_for:
                if name in within:
                    late = self._measured_late(late, name)
            if late is not trial:
                self._evaluator.keep(late)
                if not late.waits_for:
                    told(late)

    def finalists(self, device: str, shown: Callable[[str, int, int], None]) -> None:
        """Measure the front of one device as finalists; ``shown`` hears how many of how many are done.

        The front may change by it: a trial that only now is on it stays provisional, and says so.

        Raises:
            Interrupted, Cancelled: the search was stopped; what was measured is kept and not measured again.
        """
        numbers = self._chosen(device)
        left = [number for number in numbers if not self._is_done(number, device)]
        for place, number in enumerate(left):
            shown(device, len(numbers) - len(left) + place, len(numbers))
            if place % _REFERENCE_AFTER == 0:
                self._references.measure({device: 1})
            try:
                self._finalise(number, device)
            except (Lost, JobFailed, BadInput):
                if device not in self._evaluator.measuring.fleet.devices:
                    return
        if left:
            self._references.measure({device: 1})
            shown(device, len(numbers), len(numbers))

    def intervals(self, device: str) -> None:
        """Work out all intervals of a device's figures again, from how far its reference strayed over the whole run.

        A trial that was measured early had an interval that knew little of other hours.
        """
        for trial in self._run.read_trials():
            result = trial.devices.get(device)
            found = self._run.read_measurement(trial.deployed, device)
            if trial.state in ("complete", "infeasible") and result and result.state == "measured" and found:
                progress = self._known(trial, device)
                self._evaluator.measuring.learn(device, found, progress)
                self._evaluator.keep(self._finished(trial, progress))

    def _chosen(self, device: str) -> list[int]:
        """The trials of a device's front, those nearest the knee first, as many as are measured again."""
        found = front_of(self._run, self._run.read_trials(), device)
        rest = list(found.trials)
        numbers: list[int] = []
        while rest and len(numbers) < FINALISTS:
            numbers.append(rest.pop(pareto.knee(as_values(rest, found.objectives))).number)
        return numbers

    def _is_done(self, number: int, device: str) -> bool:
        return self._run.read_trial(number).devices[device].mode == "finalist"

    def _finalise(self, number: int, device: str) -> None:
        """Measure a trial's bundle as a finalist, for it and for all trials that deploy the same."""
        trial = self._run.read_trial(number)
        measuring = self._evaluator.measuring
        with measuring.fleet.turn(device) as held:
            found = self._run.read_measurement(trial.deployed, device)
            if found is None or found.mode != "finalist":
                found, _ = measuring.measured(held, bundle_of(self._run, number), "finalist", time.monotonic())
                if found.verdict == "invalid":
                    return
                self._run.write_measurement(trial.deployed, device, found)
        with self._writing:  # another device's finalists may be of the same trials
            for one in self._run.read_trials():
                if one.deployed == trial.deployed and device in one.devices and one.devices[device].state == "measured":
                    self._evaluator.keep(self._with(one, device, found))

    def _with(self, trial: Trial, device: str, found: Measurement) -> Trial:
        """A trial with a device's figures worked out again from a measurement, and the labels of that one."""
        progress = self._known(trial, device)
        before = trial.devices[device]
        first = self._run.read_measurement(trial.deployed, device, "provisional")
        gone = {"provisional", *(first.reasons if first else ())}
        labels = [*(label for label in before.labels if label not in gone), *found.reasons]
        progress.devices[device] = replace(before, mode=found.mode, labels=tuple(dict.fromkeys(labels)))
        self._evaluator.measuring.learn(device, found, progress)
        return self._finished(trial, progress)

    def _measured_late(self, trial: Trial, device: str) -> Trial:
        """A trial with what a device that was away has measured of it, and how its answers compare."""
        progress = self._known(trial, device)
        try:
            bundle = bundle_of(self._run, trial.number)
            manifest = open_bundle(bundle, verify=False).manifest
            found = self._evaluator.measuring.on(device, trial.number, bundle, manifest)
            self._evaluator.measuring.take(device, found, progress)
            if found.measurement:
                self._evaluator.answering.again(trial.number, device, bundle, progress)
                unmodified = self._evaluator.unmodified.read(trial.candidate["model.path"])
                if unmodified and progress.devices[device].answered:
                    hold_against(unmodified, progress)
        except (Lost, BadInput):
            return trial
        return self._finished(trial, progress)

    def _known(self, trial: Trial, device: str) -> Progress:
        """What a finished trial is known by, as far as a device's figures can need it."""
        progress = self._evaluator.progress()
        progress.devices.update(trial.devices)
        progress.slices, progress.confusion, progress.scoring = trial.slices, trial.confusion, trial.scoring
        size = figure_of(trial, "size_mb").value
        progress.learn(size_bytes=None if size is None else round(size * BYTES_PER_MB), **self._answers(trial))
        if progress.several and trial.devices[device].answered:
            progress.learn_on(device, **self._answers(trial, device))
        return progress

    def _answers(self, trial: Trial, device: str = "") -> dict[str, Any]:
        rows = {item.id: item for item in self._evaluator.answering.scorer.items}
        kept = self._run.read_answers(trial.number, device)
        return {
            "samples": [rows[one.id] for one in kept],
            "answers": [one.answer for one in kept],
            "scores": [one.score for one in kept],
        }

    def _finished(self, trial: Trial, progress: Progress) -> Trial:
        """The trial with the figures that are known now; those that were not worked out again stay."""
        progress.figures = {**trial.figures, **progress.figures}
        state, violated = self._evaluator.judge(progress)
        nowhere = all(one.state == "infeasible" for one in progress.devices.values())
        return replace(
            trial,
            state="failed" if nowhere else state,
            reason=in_words({name: one.reason for name, one in progress.devices.items()}) if nowhere else trial.reason,
            violated=violated,
            figures=progress.figures,
            devices=dict(progress.devices),
            slices=progress.slices,
            confusion=progress.confusion,
            scoring=progress.scoring,
        )
