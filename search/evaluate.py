"""The way of one trial: build the bundle, measure it, score it on the search split, and put everything on record."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import JobFailed
from hardware_profiles.profile import Profile
from hardware_profiles.store import Entry, Gone, Store
from objectives.devices import bound
from objectives.registry import Objective, Outcome
from objectives.run import RunFolder
from objectives.trial import DeviceResult, Figure, StageCost, State, Trial
from reports.front import floors_of, scores_of
from search.answering import Answering
from search.bind import bind
from search.build import StageTree
from search.executors import Builder, Interrupted
from search.feasibility import PREDICTED
from search.fleet import Fleet
from search.limits import Limits, judged, violations
from search.measuring import Measuring
from search.prediction import Predicted
from search.progress import Progress, timed
from search.racing import Race, rival
from search.refusing import Refusing
from search.scoring import Scored, Scorer
from search.study import Asked
from search.unmodified import Reference, Unmodified, hold_against
from spaces.axes import Value
from spaces.candidate import Candidate
from spaces.errors import BadInput, StageFailed
from spaces.space import Space

_BUILD_ATTEMPTS = 3


class Evaluator:
    """Evaluates candidates of one run; one call per thread at a time may run for each builder.

    ``objectives``: what the search optimises, in order, those of a device once for each where it has several;
    ``known``: every figure there is, by its plain name; ``predicted``: what stands in for the devices, where none is
    measured.
    """

    def __init__(
        self,
        *,
        run: RunFolder,
        space: Space,
        scorer: Scorer,
        tree: StageTree,
        store: Store,
        fleet: Fleet,
        objectives: Sequence[str],
        known: Mapping[str, Objective],
        limits: Limits,
        racing: bool,
        predicted: Predicted | None = None,
    ) -> None:
        self._run = run
        self._space = space
        self._scorer = scorer
        self._tree = tree
        self._store = store
        self._fleet = fleet
        self._gate = fleet.gate
        self._stop = fleet.stop
        self.known = bound(known, fleet.names)
        self._objectives = [self.known[name] for name in objectives]
        self.limits = limits
        self._racing = racing
        self._predicted = predicted
        self._refusing = Refusing(space, self._profiles, limits, lambda: tuple(self._trials.values()))
        self.measuring = Measuring(run=run, fleet=fleet, items=scorer.items)
        self.answering = Answering(run=run, fleet=fleet, scorer=scorer, stop=fleet.stop)
        self.unmodified = Unmodified(run.path, space, tree)
        self._trials = {trial.number: trial for trial in run.read_trials()}

    def evaluate(self, asked: Asked, builder: Builder) -> Trial:
        """The finished trial, also on disk; a candidate that cannot be built or run gives a failed one.

        Raises:
            Interrupted: the search was stopped meanwhile; nothing of the trial is kept but its artifacts.
            AllLost: no device is within reach any more; nothing is kept but artifacts and measurements.
        """
        started = time.time()
        progress = self.progress()
        state: State = "complete"
        reason = ""
        violated: tuple[str, ...] = ()
        try:
            if violated := self._refused(asked.candidate, progress):
                state, reason = "infeasible", "; ".join(violated)
            else:
                state, reason, violated = self._tried(asked, builder, progress)
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
            deployed=progress.deployed,
            figures=progress.figures,
            devices=progress.devices,
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
        self.keep(trial)
        return trial

    def _tried(self, asked: Asked, builder: Builder, progress: Progress) -> tuple[State, str, tuple[str, ...]]:
        """The candidate built, measured and scored: the trial's state, its reason, and the limits that it misses."""
        bundle = self._built(asked.candidate, self._run.bundle(asked.number), builder, progress)
        progress.learn(size_bytes=open_bundle(bundle, verify=False).size_bytes)
        self._measure(asked, bundle, progress)
        against = self._rival(asked.candidate, progress.figures)
        if self._score(asked, bundle, against, progress):
            self._compare(asked.candidate, builder, progress)
            state, violated = self.judge(progress)
            return state, "", violated
        assert against is not None
        return "pruned", f"behind trial {against.number}, which is no worse in anything else", ()

    def progress(self) -> Progress:
        """What is known of a trial that has not begun."""
        return Progress(Outcome(task=self._scorer.task), self.known, several=len(self._fleet.names) > 1)

    def judge(self, progress: Progress) -> tuple[State, tuple[str, ...]]:
        """Hold the figures against the limits: the trial's state, and what it misses; each device is told its own."""
        state, violated, each = judged(progress.figures, self.limits, progress.devices)
        for name, missed in each.items():
            progress.label(name, violated=missed)
        return state, violated

    def keep(self, trial: Trial) -> None:
        """Put a trial on record, in place of what was known of it."""
        self._run.write_trial(trial)
        self._trials[trial.number] = trial

    def _profiles(self) -> Mapping[str, Profile]:
        if self._predicted:
            return dict.fromkeys(self._fleet.names, self._predicted.profile)
        return {name: device.profile for name, device in self._fleet.devices.items()}

    def _refused(self, candidate: Candidate, progress: Progress) -> tuple[str, ...]:
        """Why no device can run the candidate, each in a sentence; those that alone cannot are marked."""
        reasons = {name: one.reason for name, one in self._refusing.of(candidate).items()}
        if reasons and len(reasons) == len(self._fleet.names):
            progress.labels += (PREDICTED,)
            return tuple(dict.fromkeys(reasons.values()))
        for name, reason in reasons.items():
            labels = (f"cannot run on {name}: {reason}", PREDICTED)
            progress.devices[name] = DeviceResult(state="infeasible", reason=reason, labels=labels)
        return ()

    def _measure(self, asked: Asked, bundle: Path, progress: Progress) -> None:
        """Measure the bundle on every device, or predict its figures where the search goes by a profile."""
        if self._predicted is None:
            self.measuring.everywhere(asked.number, bundle, progress)
            return
        found = self._predicted.figures(asked.candidate, self._space)
        progress.figures |= {name: figure for name, figure in found.items() if figure.value is not None}
        for name in self._fleet.names:
            progress.devices[name] = DeviceResult(state="predicted", labels=(self._predicted.label,))

    def _built(self, candidate: Candidate, target: Path, builder: Builder, progress: Progress) -> Path:
        """The bundle; built again from the first stage where an artifact was found damaged on the way."""
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
        if not self._racing or violations(figures, held) or self.unmodified.is_it(candidate):
            return None
        return rival(tuple(self._trials.values()), figures, self._objectives, self._floors())

    def _score(self, asked: Asked, bundle: Path, against: Trial | None, progress: Progress) -> bool:
        """Score the bundle; whether it was scored in full, not raced out."""
        found = self.answering.score(asked.number, bundle, lambda: self._race(against) if against else None, progress)
        if not found.raced and self.unmodified.is_it(asked.candidate):
            self._keep(asked.candidate, found)
        return not found.raced

    def _floors(self) -> dict[str, float]:
        """The noise floors of the figures that have one, by their names in this search."""
        if len(self._fleet.names) == 1:
            return floors_of(self._run, self._fleet.names[0])
        each = {device: floors_of(self._run, device) for device in self._fleet.names}
        return {f"{name}@{device}": floor for device, found in each.items() for name, floor in found.items()}

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
        with self.unmodified.turn(model, self._stop):
            if self.unmodified.read(model) is None:
                self.unmodified.write(model, found)

    def _compare(self, candidate: Candidate, builder: Builder, progress: Progress) -> None:
        """Hold the answers against those of the candidate's own model as it comes."""
        model = candidate.values["model.path"]
        begun = time.monotonic()
        with self.unmodified.turn(model, self._stop):
            reference = self.unmodified.read(model) or self._reference(model, builder, progress)
        progress.seconds["wait"] += time.monotonic() - begun - progress.seconds["reference"]
        if reference is None:
            progress.labels += (f"the unmodified model cannot be scored ({self.unmodified.failed[model]})",)
            return
        hold_against(reference, progress)

    def _reference(self, model: Value, builder: Builder, trial: Progress) -> Reference | None:
        """The unmodified model built and scored; null where that fails, which it would again."""
        if model in self.unmodified.failed:
            return None
        begun = time.monotonic()
        progress = Progress(Outcome(task=self._scorer.task), {})
        bundle = self.unmodified.bundle(model)
        try:
            self._built(self.unmodified.candidate(model), bundle, builder, progress)
            return self.unmodified.write(model, self.answering.anywhere(bundle))
        except (StageFailed, JobFailed) as error:
            self.unmodified.failed[model] = str(error)
            return None
        finally:
            shutil.rmtree(bundle, ignore_errors=True)
            trial.seconds["reference"] = time.monotonic() - begun
