"""The run's Optuna study: candidates asked of it, outcomes told to it, kept in a journal that survives a kill."""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import optuna
from optuna.trial import TrialState

from search.journal import open_journal
from search.samplers import Distinct
from spaces.axes import Value
from spaces.candidate import Candidate
from spaces.errors import BadInput
from spaces.knobs import Choices
from spaces.space import COUNTED, Space, grid

NAME = "vlmfront"
_RETRIES = 3


@dataclass(frozen=True)
class Asked:
    """A candidate to try and the number its outcome is told under."""

    number: int
    candidate: Candidate


class Study:
    """Ask and tell over a space; safe to call from several threads."""

    def __init__(self, journal: Path, space: Space, directions: Sequence[str], seed: int, sampler: str = "tpe") -> None:
        """Open the journal, or begin one; ``sampler`` is a name or reference of `search.samplers`.

        Raises:
            BadInput: the journal is of a study with other objectives, or the sampler cannot be made.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._lock = Lock()
        storage = open_journal(journal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                study_name=NAME, storage=storage, directions=list(directions), load_if_exists=True
            )
            done = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = Distinct(sampler, (seed + done) % 2**32, self._distinct)
        if [direction.name.lower() for direction in self._study.directions] != list(directions):
            raise BadInput(f"{journal}: this study has other objectives; give the run another name with --run.")
        self._random = random.Random(f"{seed}:{done}")
        self._seen = {
            str(trial.user_attrs["candidate"])
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state is TrialState.COMPLETE or trial.user_attrs.get("final")
        }

    @property
    def interrupted(self) -> list[tuple[int, Mapping[str, Value]]]:
        """Trials that were asked for and never told: number and parameters."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [(trial.number, trial.params) for trial in trials]

    def knows(self, candidates: Mapping[int, str]) -> bool:
        """Whether each of these numbers is that of a trial of this candidate, by its id."""
        trials = self._study.get_trials(deepcopy=False)
        return all(
            number < len(trials) and trials[number].user_attrs.get("candidate") == candidate
            for number, candidate in candidates.items()
        )

    def hold(self, candidate: str) -> None:
        """Do not ask for this candidate, by its id, though it is not told yet: it waits for a device."""
        with self._lock:
            self._seen.add(candidate)

    def replay(self, candidate: Candidate | None) -> None:
        """Ask for this candidate under the next number, to be told; for null, let the number go by as interrupted."""
        with self._lock:
            if candidate is None:
                trial = self._study.ask()
                trial.set_user_attr("reason", "interrupted")
                self._study.tell(trial, state=TrialState.FAIL)
                return
            self._study.enqueue_trial(dict(candidate.values))
            trial = self._study.ask()
            self._suggest(trial)
            trial.set_user_attr("candidate", candidate.id)
            self._seen.add(candidate.id)

    def propose(self, candidate: Candidate) -> None:
        """Have this candidate asked next, unless it was tried already."""
        with self._lock:
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if candidate.id not in self._seen and all(
                trial.system_attrs.get("fixed_params") != dict(candidate.values) for trial in waiting
            ):
                self._study.enqueue_trial(dict(candidate.values))

    def again(self, parameters: Mapping[str, Value]) -> bool:
        """Have the candidate of an unfinished trial asked next; whether there was enough of it to do so."""
        try:
            candidate = self._space.candidate(parameters)
        except BadInput:
            return False
        self.propose(candidate)
        return True

    def ask(self) -> Asked | None:
        """The next candidate, never one that was tried before; null when the space holds no more."""
        with self._lock:
            for attempt in range(_RETRIES + 1):
                if attempt == _RETRIES:
                    fresh = self._unseen()
                    if fresh is None:
                        return None
                    self._study.enqueue_trial(dict(fresh.values))
                trial = self._study.ask()
                candidate = self._suggest(trial)
                trial.set_user_attr("candidate", candidate.id)
                if candidate.id not in self._seen:
                    self._seen.add(candidate.id)
                    return Asked(trial.number, candidate)
                trial.set_user_attr("reason", "asked again for a candidate that was already tried")
                self._study.tell(trial, state=TrialState.FAIL)
            return None

    def tell(self, number: int, values: Sequence[float], violations: Mapping[str, float]) -> None:
        """A trial is done: its objective values, and by how much it misses each limit (above 0 is a miss)."""
        with self._lock:
            trial = self._open(number)
            self._seen.add(str(trial.user_attrs.get("candidate")))
            for limit, amount in violations.items():
                trial.set_constraint(limit, amount)
            self._study.tell(number, list(values))

    def fail(self, number: int, reason: str, *, final: bool) -> None:
        """A trial gave no values. ``final``: the same candidate would fail again, so it is not asked for again."""
        with self._lock:
            trial = self._open(number)
            trial.set_user_attr("reason", reason)
            trial.set_user_attr("final", final)
            (self._seen.add if final else self._seen.discard)(str(trial.user_attrs.get("candidate")))
            self._study.tell(number, state=TrialState.FAIL)

    def prune(self, number: int, reason: str, reached: Mapping[str, float | None], misses: Mapping[str, float]) -> None:
        """A trial was raced out: ``reached`` is what is known of its accuracy (value, low, high, n), no value of it."""
        with self._lock:
            trial = self._open(number)
            for name, value in (("reason", reason), ("final", True), ("accuracy", dict(reached))):
                trial.set_user_attr(name, value)
            self._seen.add(str(trial.user_attrs.get("candidate")))
            for limit, amount in misses.items():
                trial.set_constraint(limit, amount)
            self._study.tell(number, state=TrialState.PRUNED)

    def _distinct(self, drawn: Mapping[str, Value]) -> Mapping[str, Value]:
        """The drawn values, or where they make a candidate that was tried, those of the nearest one that was not.

        Nearest: it differs in the fewest knobs; of several one at random.
        """
        assignment: dict[str, Value] = {}
        for knob in self._space.knobs:
            if knob.counts(assignment):
                values = grid(knob)
                if knob.name not in drawn and len(values) > 1:
                    return drawn
                assignment[knob.name] = drawn.get(knob.name, values[0])
        if Candidate(assignment).id not in self._seen or self._space.size is None:
            return drawn
        left = self._untried()
        self._random.shuffle(left)

        def distance(candidate: Candidate) -> int:
            return len(set(candidate.values.items()) ^ set(assignment.items()))

        return min(left, key=distance).values if left else drawn

    def _open(self, number: int) -> optuna.trial.Trial:
        return optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _suggest(self, trial: optuna.trial.Trial) -> Candidate:
        assignment: dict[str, Value] = {}
        for knob in self._space.knobs:
            if not knob.counts(assignment):
                continue
            if isinstance(knob, Choices):
                assignment[knob.name] = trial.suggest_categorical(knob.name, knob.values)
            elif knob.integer:
                step = int(knob.step or 1)
                assignment[knob.name] = trial.suggest_int(
                    knob.name, int(knob.low), int(knob.high), step=step, log=knob.log
                )
            else:
                assignment[knob.name] = trial.suggest_float(
                    knob.name, knob.low, knob.high, step=knob.step, log=knob.log
                )
        return self._space.candidate(assignment)

    def _unseen(self) -> Candidate | None:
        if self._space.size is not None:
            left = self._untried()
            return self._random.choice(left) if left else None
        for _ in range(COUNTED):
            candidate = self._draw()
            if candidate.id not in self._seen:
                return candidate
        return None

    def _untried(self) -> list[Candidate]:
        return [candidate for candidate in self._space.candidates() if candidate.id not in self._seen]

    def _draw(self) -> Candidate:
        assignment: dict[str, Value] = {}
        for knob in self._space.knobs:
            if knob.counts(assignment):
                continuous = not isinstance(knob, Choices) and knob.count is None
                assignment[knob.name] = (
                    self._random.uniform(knob.low, knob.high)
                    if continuous and not isinstance(knob, Choices)
                    else self._random.choice(grid(knob))
                )
        return self._space.candidate(assignment)
