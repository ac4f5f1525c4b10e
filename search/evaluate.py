"""The way of one trial: build the bundle, score it on the search split, measure it, and put everything on record."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from hardware_profiles.bundle import open_bundle
from hardware_profiles.client import Cancelled, run_job
from hardware_profiles.messages import Answered, Job, JobFailed, Measurement, Request
from hardware_profiles.profile import Profile
from hardware_profiles.store import Entry, Gone, Store
from objectives.accuracy import accuracy, accuracy_slices
from objectives.latency import between_processes, latency_figures
from objectives.memory import memory_figure, size_figure
from objectives.metrics import METRICS
from objectives.records import ScoredAnswer
from objectives.run import RunFolder
from objectives.task import Task
from objectives.trial import Figure, StageCost, Trial
from search.bind import bind
from search.build import StageTree
from search.executors import Builder, Interrupted
from search.feasibility import unfit
from search.gate import Gate
from search.study import Asked
from spaces.errors import BadInput, StageFailed
from spaces.sample import Sample
from spaces.space import Space

TIMED_ITEMS = 24
"""Different questions that a measurement cycles through, taken evenly over the split so that they are like it."""

_MEASURE_ATTEMPTS = 3
_BUILD_ATTEMPTS = 3


@dataclass
class _Progress:
    """What is known of a trial so far, so that a failure keeps it."""

    stages: list[StageCost] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"build": 0.0, "score": 0.0, "measure": 0.0, "wait": 0.0})
    figures: dict[str, Figure] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    scoring: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


class Evaluator:
    """Evaluates candidates of one run; one call per thread at a time may run for each builder."""

    def __init__(
        self,
        *,
        run: RunFolder,
        space: Space,
        task: Task,
        items: Sequence[Sample],
        tree: StageTree,
        store: Store,
        gate: Gate,
        limits: Mapping[str, Mapping[str, float]],
        stop: Event,
        device: Profile,
    ) -> None:
        self._run = run
        self._space = space
        self._task = task
        self._items = items
        self._tree = tree
        self._store = store
        self._gate = gate
        self.limits = limits
        self._stop = stop
        self._device = device

    def evaluate(self, asked: Asked, builder: Builder) -> Trial:
        """The finished trial, also on disk; a candidate that cannot be built or run gives a failed one.

        Raises:
            Interrupted: the search was stopped meanwhile; nothing of the trial is kept but its artifacts.
        """
        started = time.time()
        progress = _Progress()
        state, reason = "complete", ""
        violated: tuple[str, ...] = ()
        try:
            if unfitness := unfit(asked.candidate, self._space, self._device):
                raise StageFailed(unfitness)
            bundle = self._built(asked, builder, progress)
            progress.figures["size_mb"] = size_figure(open_bundle(bundle, verify=False).size_bytes)
            self._score(asked.number, bundle, progress)
            self._measure(asked.number, bundle, progress)
            violated = violations(progress.figures, self.limits)
            state = "infeasible" if violated else "complete"
        except StageFailed as error:
            state, reason = "failed", str(error)
        except JobFailed as error:
            state, reason = "failed", f"{error.fault}: {error.reason}"
        except BadInput as error:
            state, reason = "failed", str(error)
        except Cancelled:
            raise Interrupted from None
        trial = Trial(
            number=asked.number,
            candidate_id=asked.candidate.id,
            candidate=dict(asked.candidate.values),
            state=state,  # type: ignore[arg-type]
            reason=reason,
            figures=progress.figures,
            slices=progress.slices,
            violated=violated,
            stages=tuple(progress.stages),
            seconds=progress.seconds,
            scoring=progress.scoring,
            labels=progress.labels,
            started=started,
            finished=time.time(),
        )
        self._run.write_trial(trial)
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

    def _built(self, asked: Asked, builder: Builder, progress: _Progress) -> Path:
        """The bundle; built again from the first stage where an artifact was found damaged on the way."""
        for _ in range(_BUILD_ATTEMPTS):
            try:
                return self._build(asked, builder, progress)
            except Gone as error:
                reason = str(error)
                progress.stages.clear()
        raise StageFailed(f"{reason}, {_BUILD_ATTEMPTS} times in a row; look after the disk that the store is on")

    def _build(self, asked: Asked, builder: Builder, progress: _Progress) -> Path:
        entry: Entry | None = None
        with _timed(progress, "build", self._gate.work()):
            planned = self._tree.plan(asked.candidate)
        for stage in planned:
            with _timed(progress, "build", self._gate.work()):
                entry, reused = builder.run(stage)
            progress.stages.append(StageCost(name=stage.axis, key=stage.key, seconds=entry.seconds, reused=reused))
        if entry is None:
            raise StageFailed("the candidate has no stage at all")
        bundle = self._run.bundle(asked.number)
        with _timed(progress, "build", self._gate.work()):
            bind(bundle, asked.candidate, entry, self._store, self._space, self._task, progress.stages)
        return bundle

    def _score(self, number: int, bundle: Path, progress: _Progress) -> None:
        job = Job(kind="answer", bundle=str(bundle), requests=requests(self._items))
        with _timed(progress, "score", self._gate.work()):
            result = run_job(job, cancel=self._stop)
        assert isinstance(result, Answered)
        progress.scoring = {name: value for name, value in result.properties.items() if name.startswith("scoring")}
        scored = score(result, self._items, self._task.metric)
        self._run.write_answers(number, scored)
        scores = [answer.score for answer in scored]
        progress.figures["accuracy"] = accuracy(scores)
        progress.slices = accuracy_slices(self._items, scores, self._task.slices)

    def _measure(self, number: int, bundle: Path, progress: _Progress) -> None:
        with _timed(progress, "measure", self._gate.quiet()):
            measurement = self._measurement(bundle)
        self._run.write_measurement(number, measurement)
        spread = between_processes([reference.measurement for reference in self._run.read_references()])
        progress.figures |= {**latency_figures(measurement, spread), "memory_peak_mb": memory_figure(measurement)}
        progress.labels = (("provisional",) if measurement.provisional else ()) + measurement.reasons

    def _measurement(self, bundle: Path) -> Measurement:
        """A measurement of the bundle, taken again a bounded number of times where it is invalid."""
        job = Job(kind="measure", bundle=str(bundle), requests=requests(timed_items(self._items)))
        measurement = run_job(job, cancel=self._stop)
        for _ in range(_MEASURE_ATTEMPTS - 1):
            assert isinstance(measurement, Measurement)
            if measurement.verdict != "invalid":
                break
            measurement = run_job(job, cancel=self._stop)
        assert isinstance(measurement, Measurement)
        return measurement


@contextmanager
def _timed(progress: _Progress, phase: str, turn: AbstractContextManager[None]) -> Iterator[None]:
    """Book the wait for a turn as ``wait`` and the turn itself as its phase."""
    asked = time.monotonic()
    with turn:
        begun = time.monotonic()
        progress.seconds["wait"] += begun - asked
        try:
            yield
        finally:
            progress.seconds[phase] += time.monotonic() - begun


def timed_items(items: Sequence[Sample]) -> Sequence[Sample]:
    """The items that a measurement cycles through, taken evenly over the split."""
    count = min(TIMED_ITEMS, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def requests(samples: Sequence[Sample]) -> tuple[Request, ...]:
    """The samples as a runner is asked them."""
    return tuple(
        Request(id=sample.id, image=str(sample.image.resolve()), question=sample.question, fields=sample.fields)
        for sample in samples
    )


def score(result: Answered, samples: Sequence[Sample], metric: str) -> list[ScoredAnswer]:
    """Each sample's answer with its score, in the order of the samples."""
    texts = {answer.id: answer.text for answer in result.answers}
    return [
        ScoredAnswer(id=sample.id, answer=texts[sample.id], score=METRICS[metric](texts[sample.id], sample))
        for sample in samples
    ]


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
