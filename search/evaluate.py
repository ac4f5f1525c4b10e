"""The way of one trial: build the bundle, measure it, score it on the search split, and put everything on record."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Job, JobFailed, Measurement
from hardware_profiles.profile import Profile
from hardware_profiles.store import Entry, Gone, Store
from objectives.accuracy import accuracy_slices
from objectives.costs import confusion
from objectives.latency import between_processes
from objectives.registry import Objective, Outcome
from objectives.run import RunFolder
from objectives.trial import Figure, StageCost, State, Trial
from reports.front import floors_of, scores_of
from search.bind import bind
from search.build import StageTree
from search.executors import Builder, Interrupted
from search.feasibility import unfit
from search.gate import Gate
from search.progress import Progress, timed
from search.racing import Race, rival
from search.scoring import Scored, Scorer, requests
from search.study import Asked
from search.unmodified import Reference, Unmodified
from spaces.axes import Value
from spaces.candidate import Candidate
from spaces.errors import BadInput, StageFailed
from spaces.sample import Sample
from spaces.space import Space

TIMED_ITEMS = 24
"""Different questions that a measurement cycles through, taken evenly over the split so that they are like it."""

_MEASURE_ATTEMPTS = 3
_BUILD_ATTEMPTS = 3


class Evaluator:
    """Evaluates candidates of one run; one call per thread at a time may run for each builder.

    ``objectives``: what the search optimises, in order; ``known``: every objective that has a figure, by name.
    """

    def __init__(
        self,
        *,
        run: RunFolder,
        space: Space,
        scorer: Scorer,
        tree: StageTree,
        store: Store,
        gate: Gate,
        objectives: Sequence[str],
        known: Mapping[str, Objective],
        limits: Mapping[str, Mapping[str, float]],
        racing: bool,
        stop: Event,
        device: Profile,
    ) -> None:
        self._run = run
        self._space = space
        self._scorer = scorer
        self._tree = tree
        self._store = store
        self._gate = gate
        self._objectives = [known[name] for name in objectives]
        self._known = known
        self.limits = limits
        self._racing = racing
        self._stop = stop
        self._device = device
        self._unmodified = Unmodified(run.path, space, tree)
        self._trials = list(run.read_trials())

    def evaluate(self, asked: Asked, builder: Builder) -> Trial:
        """The finished trial, also on disk; a candidate that cannot be built or run gives a failed one.

        Raises:
            Interrupted: the search was stopped meanwhile; nothing of the trial is kept but its artifacts.
        """
        started = time.time()
        progress = Progress(Outcome(task=self._scorer.task), self._known)
        state: State = "complete"
        reason = ""
        violated: tuple[str, ...] = ()
        try:
            bundle = self._built(asked.candidate, self._run.bundle(asked.number), builder, progress)
            progress.learn(size_bytes=open_bundle(bundle, verify=False).size_bytes)
            self._measure(asked.number, bundle, progress)
            against = self._rival(asked.candidate, progress.figures)
            if self._score(asked, bundle, against, progress):
                self._compare(asked.candidate, builder, progress)
                violated = violations(progress.figures, self.limits)
                state = "infeasible" if violated else "complete"
            else:
                assert against is not None
                state, reason = "pruned", f"behind trial {against.number}, which is no worse in anything else"
        except (StageFailed, BadInput) as error:
            state, reason = "failed", str(error)
        except JobFailed as error:
            state, reason = "failed", f"{error.fault}: {error.reason}"
        except Cancelled:
            raise Interrupted from None
        trial = Trial(
            number=asked.number,
            candidate_id=asked.candidate.id,
            candidate=dict(asked.candidate.values),
            state=state,
            reason=reason,
            figures=progress.figures,
            slices=progress.slices,
            confusion=progress.confusion,
            violated=violated,
            stages=tuple(progress.stages),
            seconds=progress.seconds,
            scoring=progress.scoring,
            labels=progress.labels,
            started=started,
            finished=time.time(),
        )
        self._run.write_trial(trial)
        self._trials.append(trial)
        return trial

    def measure_again(self, number: int) -> Measurement:
        """Measure a finished trial's bundle once more, alone on the machine: for the drift and noise of this device.

        Raises:
            Interrupted: the search was stopped meanwhile.
            JobFailed: the bundle could not be run.
        """
        try:
            with self._gate.quiet():
                return self._measurement(self._run.bundle(number))
        except Cancelled:
            raise Interrupted from None

    def _built(self, candidate: Candidate, target: Path, builder: Builder, progress: Progress) -> Path:
        """The bundle; built again from the first stage where an artifact was found damaged on the way."""
        if unfitness := unfit(candidate, self._space, self._device):
            raise StageFailed(unfitness)
        for _ in range(_BUILD_ATTEMPTS):
            try:
                return self._build(candidate, target, builder, progress)
            except Gone as error:
                reason = str(error)
                progress.stages.clear()
        raise StageFailed(f"{reason}, {_BUILD_ATTEMPTS} times in a row; look after the disk that the store is on")

    def _build(self, candidate: Candidate, target: Path, builder: Builder, progress: Progress) -> Path:
        entry: Entry | None = None
        with timed(progress, "build", self._gate.work()):
            planned = self._tree.plan(candidate)
        for stage in planned:
            with timed(progress, "build", self._gate.work()):
                entry, reused = builder.run(stage)
            progress.stages.append(StageCost(name=stage.axis, key=stage.key, seconds=entry.seconds, reused=reused))
        if entry is None:
            raise StageFailed("the candidate has no stage at all")
        with timed(progress, "build", self._gate.work()):
            bind(target, candidate, entry, self._store, self._space, self._scorer.task, progress.stages)
        return target

    def _rival(self, candidate: Candidate, figures: Mapping[str, Figure]) -> Trial | None:
        """The trial that this one races against; null where it has to be scored in full."""
        held = {name: bounds for name, bounds in self.limits.items() if name in figures}
        if not self._racing or violations(figures, held) or self._unmodified.is_it(candidate):
            return None
        return rival(tuple(self._trials), figures, self._objectives, floors_of(self._run))

    def _score(self, asked: Asked, bundle: Path, against: Trial | None, progress: Progress) -> bool:
        """Score the bundle; whether it was scored in full, not raced out."""
        race = self._race(against) if against else None
        with timed(progress, "score", self._gate.work()):
            found = self._scorer.run(bundle, self._stop, race)
        self._run.write_answers(asked.number, found.answers)
        scores = [answer.score for answer in found.answers]
        progress.scoring = found.how
        progress.slices = accuracy_slices(found.samples, scores, self._scorer.task.slices)
        answers = [answer.answer for answer in found.answers]
        if self._scorer.task.costs:
            progress.confusion = confusion(answers, found.samples, self._scorer.task)
        progress.learn(samples=found.samples, answers=answers, scores=scores, retained=found.retained)
        if not found.raced and self._unmodified.is_it(asked.candidate):
            self._keep(asked.candidate, found)
        return not found.raced

    def _race(self, against: Trial) -> Race | None:
        """The race against a trial; null where its answers are damaged."""
        try:
            scores = scores_of(self._run)(against.number)
        except BadInput:
            return None
        items = {item.id for item in self._scorer.items}
        return Race(scores, len(items)) if scores.keys() == items else None

    def _keep(self, candidate: Candidate, found: Scored) -> None:
        model = candidate.values["model.path"]
        with self._unmodified.turn(model, self._stop):
            if self._unmodified.read(model) is None:
                self._unmodified.write(model, found)

    def _compare(self, candidate: Candidate, builder: Builder, progress: Progress) -> None:
        """Hold the answers against those of the candidate's own model as it comes."""
        model = candidate.values["model.path"]
        begun = time.monotonic()
        with self._unmodified.turn(model, self._stop):
            reference = self._unmodified.read(model) or self._reference(model, builder, progress)
        progress.seconds["wait"] += time.monotonic() - begun - progress.seconds["reference"]
        if reference is None:
            progress.labels += (f"the unmodified model cannot be scored ({self._unmodified.failed[model]})",)
            return
        kept = progress.outcome.retained
        retained = replace(kept, unmodified=reference.retained) if kept else None
        progress.learn(unmodified=reference.answers, retained=retained)

    def _reference(self, model: Value, builder: Builder, trial: Progress) -> Reference | None:
        """The unmodified model built and scored; null where that fails, which it would again."""
        if model in self._unmodified.failed:
            return None
        begun = time.monotonic()
        progress = Progress(Outcome(task=self._scorer.task), {})
        bundle = self._unmodified.bundle(model)
        try:
            self._built(self._unmodified.candidate(model), bundle, builder, progress)
            with self._gate.work():
                return self._unmodified.write(model, self._scorer.run(bundle, self._stop))
        except (StageFailed, JobFailed) as error:
            self._unmodified.failed[model] = str(error)
            return None
        finally:
            shutil.rmtree(bundle, ignore_errors=True)
            trial.seconds["reference"] = time.monotonic() - begun

    def _measure(self, number: int, bundle: Path, progress: Progress) -> None:
        with timed(progress, "measure", self._gate.quiet()):
            measurement = self._measurement(bundle)
        self._run.write_measurement(number, measurement)
        spread = between_processes([reference.measurement for reference in self._run.read_references()])
        progress.learn(measurement=measurement, spread=spread)
        progress.labels = (("provisional",) if measurement.mode == "provisional" else ()) + measurement.reasons

    def _measurement(self, bundle: Path) -> Measurement:
        """A measurement of the bundle, taken again a bounded number of times where it is invalid."""
        job = Job(kind="measure", bundle=str(bundle), requests=requests(timed_items(self._scorer.items)))
        measurement = measure(job, cancel=self._stop)
        for _ in range(_MEASURE_ATTEMPTS - 1):
            if measurement.verdict != "invalid":
                break
            measurement = measure(job, cancel=self._stop)
        return measurement


def timed_items(items: Sequence[Sample]) -> Sequence[Sample]:
    """The items that a measurement cycles through, taken evenly over the split."""
    count = min(TIMED_ITEMS, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def violations(figures: Mapping[str, Figure], limits: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """One sentence for each limit that the figures miss, or that has no figure to be held against."""
    missed = []
    for name, bounds in limits.items():
        value = figures[name].value if name in figures else None
        for side, bound in bounds.items():
            if value is None:
                missed.append(f"{name} could not be measured, and its limit is {side} {bound:g}")
            elif value < bound if side == "min" else value > bound:
                missed.append(f"{name} is {value:.4g}, and its limit is {side} {bound:g}")
    return tuple(missed)
