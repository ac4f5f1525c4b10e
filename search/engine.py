"""The search itself: workers ask for candidates, evaluate them and tell the study, until the budget is spent."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Event, Lock, Thread

from hardware_profiles.messages import JobFailed
from objectives.registry import Objective
from objectives.run import RunFolder
from objectives.trial import Trial
from search.budget import Budget
from search.evaluate import Evaluator
from search.executors import Builder, Interrupted
from search.gate import Gate
from search.study import Study

REFERENCE_EVERY = 8
"""A reference bundle is measured again after this many trials, to see drift and the noise of this device."""

_TICK_S = 0.05
_REFERENCE_FIRST = 3
"""Measurements of the reference taken at once when it is chosen: a spread needs three."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search ended: ``budget`` (spent), ``exhausted`` (no candidate left), ``interrupted``."""

    ended: str
    told: int
    seconds: float


class Engine:
    """Runs the workers of one search. ``on_trial`` is called with each finished trial, one call at a time."""

    def __init__(
        self,
        *,
        run: RunFolder,
        study: Study,
        evaluator: Evaluator,
        objectives: Sequence[str],
        budget: Budget,
        builders: Sequence[Builder],
        gate: Gate,
        stop: Event,
        on_trial: Callable[[Trial], None],
    ) -> None:
        self._run = run
        self._study = study
        self._evaluator = evaluator
        self._objectives = objectives
        self._budget = budget
        self._builders = builders
        self._gate = gate
        self._stop = stop
        self._on_trial = on_trial
        self._lock = Lock()
        self._told = len(run.read_trials())
        self._asked = self._told
        self._exhausted = False
        self._errors: list[BaseException] = []
        self._durations: list[float] = []
        self._deadline = math.inf
        references = run.read_references()
        self._reference = references[-1].trial if references else None

    def search(self) -> Outcome:
        """Search until the budget is spent, the space is exhausted, or the user interrupts.

        Raises:
            Exception: whatever went wrong in a worker that is no failure of a trial, after all workers ended.
        """
        begun = time.monotonic()
        if self._budget.seconds is not None:
            self._deadline = begun + self._budget.seconds
        workers = [Thread(target=self._work, args=(builder,), daemon=True) for builder in self._builders]
        ended = "budget"
        try:
            for worker in workers:
                worker.start()
            while any(worker.is_alive() for worker in workers):
                if time.monotonic() > self._deadline:
                    self.halt()
                time.sleep(_TICK_S)
        except KeyboardInterrupt:
            ended = "interrupted"
        self.halt()
        for worker in workers:
            worker.join()
        if self._errors:
            raise self._errors[0]
        if ended == "budget" and self._exhausted:
            ended = "exhausted"
        return Outcome(ended=ended, told=self._told, seconds=time.monotonic() - begun)

    def halt(self) -> None:
        """Stop at once: what runs is killed and stays untold; everything told is on disk already."""
        self._stop.set()
        for builder in self._builders:
            builder.kill()

    def _work(self, builder: Builder) -> None:
        try:
            while self._may_begin():
                with self._gate.work():
                    asked = self._study.ask()
                if asked is None:
                    self._exhausted = True
                    return
                begun = time.monotonic()
                trial = self._evaluator.evaluate(asked, builder)
                self._measure_reference(self._tell(trial, time.monotonic() - begun))
        except Interrupted:
            return
        except BaseException as error:
            self._errors.append(error)
            self.halt()

    def _may_begin(self) -> bool:
        """Whether another trial may begin: within the count, and likely to end before the deadline."""
        with self._lock:
            if self._stop.is_set() or self._exhausted:
                return False
            if self._budget.trials is not None and self._asked >= self._budget.trials:
                return False
            cheap = statistics.quantiles(self._durations, n=4)[0] if len(self._durations) > 1 else 0.0
            if time.monotonic() + cheap > self._deadline:
                return False
            self._asked += 1
            return True

    def _tell(self, trial: Trial, seconds: float) -> int:
        """Tell the trial; how many measurements of the reference are due now."""
        with self._lock:
            tell(self._study, trial, self._objectives, self._evaluator.limits)
            self._told += 1
            self._durations.append(seconds)
            self._on_trial(trial)
            if self._reference is None and trial.state == "complete":
                self._reference = trial.number
                return _REFERENCE_FIRST
            return int(self._reference is not None and self._told % REFERENCE_EVERY == 0)

    def _measure_reference(self, times: int) -> None:
        """Measure the reference bundle again: it shows drift, and how well a p50 repeats on this device."""
        for _ in range(times):
            assert self._reference is not None
            with suppress(JobFailed):
                self._run.log_reference(self._reference, self._evaluator.measure_again(self._reference))


def tell(study: Study, trial: Trial, objectives: Sequence[str], limits: Mapping[str, Mapping[str, float]]) -> None:
    """Tell a finished trial to the study. One without a value for every objective is told as failed."""
    if trial.state == "pruned":
        known = {name: bounds for name, bounds in limits.items() if name in trial.figures}
        study.prune(trial.number, trial.reason, asdict(trial.figures["accuracy"]), _misses(trial, known))
        return
    values = [trial.figures[name].value if name in trial.figures else None for name in objectives]
    if trial.state in ("complete", "infeasible") and all(value is not None for value in values):
        study.tell(trial.number, [value for value in values if value is not None], _misses(trial, limits))
    else:
        study.fail(trial.number, trial.reason or "an objective has no value", final=True)


def settle(run: RunFolder, study: Study, objectives: Sequence[str], limits: Mapping[str, Mapping[str, float]]) -> int:
    """After a stop or a kill: tell what was finished but not told, ask again for what was not finished.

    Returns how many trials are asked again.
    """
    finished = {trial.number: trial for trial in run.read_trials()}
    again = 0
    for number, parameters in study.interrupted:
        if number in finished:
            tell(study, finished[number], objectives, limits)
        else:
            study.fail(number, "interrupted", final=False)
            again += study.again(parameters)
    return again


def directions(objectives: Sequence[Objective]) -> list[str]:
    """Optuna's direction for each objective."""
    return ["maximize" if objective.direction == "max" else "minimize" for objective in objectives]


def _misses(trial: Trial, limits: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    misses: dict[str, float] = {}
    for name, bounds in limits.items():
        value = trial.figures[name].value if name in trial.figures else None
        for side, bound in bounds.items():
            scale = abs(bound) or 1.0
            gap = 1.0 if value is None else ((bound - value) if side == "min" else (value - bound)) / scale
            misses[f"{name}.{side}"] = gap
    return misses
