"""The search itself: workers ask for candidates, evaluate them and tell the study, until the budget is spent."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock, Thread

from hardware_profiles.agent.supervisor import Cancelled
from objectives.registry import Objective
from objectives.run import RunFolder
from objectives.trial import Trial
from search.budget import Budget
from search.evaluate import Evaluator
from search.executors import Builder, Interrupted
from search.fleet import Fleet
from search.late import SHARE, Late
from search.references import References
from search.study import Study

RETRY_EVERY = 4
"""A lost device is looked for again after this many trials."""

_TICK_S = 0.05


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
        fleet: Fleet,
        finalists: bool,
        on_trial: Callable[[Trial], None],
        on_finalist: Callable[[str, int, int], None],
    ) -> None:
        self._run = run
        self._study = study
        self._evaluator = evaluator
        self._objectives = objectives
        self._budget = budget
        self._builders = builders
        self._fleet = fleet
        self._stop = fleet.stop
        self._finalists = finalists
        self._on_trial = on_trial
        self._on_finalist = on_finalist
        self._lock = Lock()
        self._told = len(run.read_trials())
        self._asked = self._told
        self._exhausted = False
        self._errors: list[BaseException] = []
        self._durations: list[float] = []
        self._deadline = math.inf
        self._references = References(run, evaluator.measuring)
        self._late = Late(run, evaluator, self._references)
        self._catching = Lock()

    def search(self) -> Outcome:
        """Search until the budget is spent, the space is exhausted, or the user interrupts; then measure what is left.

        That is what waits for a device that came back meanwhile, and the finalists.

        Raises:
            AllLost: no device is within reach any more; all that was finished is kept.
            Exception: whatever else went wrong in a worker that is no failure of a trial, after all workers ended.
        """
        begun = time.monotonic()
        seconds = math.inf if self._budget.seconds is None else self._budget.seconds
        self._deadline = begun + seconds * (1 - SHARE if self._finalists else 1)
        interrupted = self._through([self._catch_up, *(partial(self._work, one) for one in self._builders)])
        if not interrupted and not self._errors and self._told:
            self._stop.clear()
            self._deadline = begun + seconds
            names = self._fleet.names if self._finalists else ()
            each = [partial(self._late.finalists, name, self._on_finalist) for name in names]
            interrupted = self._through([self._catch_up, *each])
            for name in self._fleet.names if not interrupted and not self._errors else ():
                self._late.intervals(name)
        if self._errors:
            raise self._errors[0]
        ended = "interrupted" if interrupted else "exhausted" if self._exhausted else "budget"
        return Outcome(ended=ended, told=self._told, seconds=time.monotonic() - begun)

    def _through(self, work: Sequence[Callable[[], None]]) -> bool:
        """Do the first piece of work, then the others at once, up to the deadline; whether the user interrupted."""
        first, *others = (Thread(target=self._guarded, args=(one,), daemon=True) for one in work)
        interrupted = False
        try:
            for threads in ([first], others):
                for thread in threads if not self._stop.is_set() else ():
                    thread.start()
                while any(thread.is_alive() for thread in threads):
                    if time.monotonic() > self._deadline:
                        self.halt()
                    time.sleep(_TICK_S)
        except KeyboardInterrupt:
            interrupted = True
        self.halt()
        for thread in (first, *others):
            if thread.ident is not None:
                thread.join()
        return interrupted

    def halt(self) -> None:
        """Stop at once: what runs is killed and stays untold; everything told is on disk already."""
        self._stop.set()
        for builder in self._builders:
            builder.kill()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (Interrupted, Cancelled):
            return
        except BaseException as error:
            self._errors.append(error)
            self.halt()

    def _work(self, builder: Builder) -> None:
        while self._may_begin():
            with self._fleet.gate.work():
                asked = self._study.ask()
            if asked is None:
                self._exhausted = True
                return
            begun = time.monotonic()
            trial = self._evaluator.evaluate(asked, builder)
            self._references.measure(self._tell(trial, time.monotonic() - begun))
            if self._told % RETRY_EVERY == 0:
                self._catch_up()

    def _catch_up(self) -> None:
        """Look for lost devices, and measure what waits for one that is there; one worker at a time does."""
        if self._catching.acquire(blocking=False):
            try:
                self._fleet.find()
                self._late.catch_up(self._tell_late)
            finally:
                self._catching.release()

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

    def _tell(self, trial: Trial, seconds: float) -> Mapping[str, int]:
        """Tell the trial, unless it waits for a device; how often each device has to measure its reference now."""
        with self._lock:
            if not trial.waits_for:
                tell(self._study, trial, self._objectives, self._evaluator.limits)
            self._told += 1
            self._durations.append(seconds)
            self._on_trial(trial)
            return self._references.due(trial, self._told)

    def _tell_late(self, trial: Trial) -> None:
        with self._lock:
            tell(self._study, trial, self._objectives, self._evaluator.limits)


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

    A trial that waits for a device stays as it is: it is told once it was measured there. Returns how many trials are
    asked again.
    """
    finished = {trial.number: trial for trial in run.read_trials()}
    again = 0
    for number, parameters in study.interrupted:
        if number in finished and finished[number].waits_for:
            study.hold(finished[number].candidate_id)
        elif number in finished:
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
