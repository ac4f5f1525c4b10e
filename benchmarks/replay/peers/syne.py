"""syne-tune's multi-objective methods behind its own ask-and-tell scheduler.

A trial that cannot be built or run is reported with ``on_trial_error``. The space is flat: syne-tune has no conditional
knobs. Its evolution, its MOASHA and its random designs draw from numpy's global generator, which is seeded here.
"""

import logging
import warnings
from datetime import UTC, datetime

import numpy as np

from replay.engine import Ground
from replay.peers.choices import Choices
from replay.peers.environment import needs
from replay.peers.partial_trials import LEVELS, PartialTrials
from replay.peers.whole_trials import Losses, WholeTrials, losses

with needs("syne-tune"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import Domain, choice, ordinal
    from syne_tune.optimizer.scheduler import SchedulerDecision
    from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
    from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution
    from syne_tune.optimizer.schedulers.multiobjective.expected_hyper_volume_improvement import (
        ExpectedHyperVolumeImprovement,
    )
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
    from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler


def space(choices: Choices) -> dict[str, Domain]:
    """The knobs in syne-tune's terms: an ordered one is ordinal, any other a choice."""
    return {
        knob: ordinal(list(range(size)), kind="equal")
        if knob in choices.ordered
        else choice(list(map(str, range(size))))
        for knob, size in choices.sizes.items()
    }


def config(choices: Choices, row: int) -> dict[str, int | str]:
    """A candidate in syne-tune's terms."""
    filled = choices.filled(row)
    return {knob: code if knob in choices.ordered else str(code) for knob, code in filled.items()}


class Scheduler:
    """A scheduler over whole trials, fed one at a time.

    Args:
        shift: added to every objective before the scheduler hears it.
    """

    def __init__(self, scheduler: SingleFidelityScheduler, metrics: list[str], shift: Losses) -> None:
        self._ask_tell = AskTellScheduler(base_scheduler=scheduler)
        self._metrics = metrics
        self._shift = shift
        self._trial: Trial | None = None

    def suggest(self, choices: Choices) -> int:
        trial = self._trial = self._ask_tell.ask()
        return choices.row(lambda knob: int(trial.config[knob]))

    def take(self, choices: Choices, row: int) -> None:
        self._ask_tell.base_scheduler.searcher.points_to_evaluate.append(config(choices, row))
        self.suggest(choices)

    def learn(self, losses: Losses | None) -> None:
        if losses is None:
            self._ask_tell.base_scheduler.on_trial_error(self._trial)
        else:
            shifted = (loss + by for loss, by in zip(losses, self._shift, strict=True))
            self._ask_tell.tell(self._trial, dict(zip(self._metrics, shifted, strict=True)))


class Halving:
    """MOASHA, which stops a trial at a level of fidelity unless it ranks among the best third seen there."""

    def __init__(self, scheduler: MOASHA, metrics: list[str]) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._trials = 0
        self._trial: Trial | None = None

    def suggest(self, choices: Choices) -> int:
        suggested = self._scheduler.suggest().config
        self._add(suggested)
        return choices.row(lambda knob: int(suggested[knob]))

    def take(self, choices: Choices, row: int) -> None:
        self._add(config(choices, row))

    def learn(self, losses: Losses | None) -> None:  # noqa: ARG002
        self._scheduler.on_trial_error(self._trial)

    def first(self) -> int:
        return 1

    def more(self, losses: Losses, level: int) -> int:
        heard = dict(zip(self._metrics, losses, strict=True)) | {"level": level}
        decision = self._scheduler.on_trial_result(self._trial, heard)
        return level if decision == SchedulerDecision.STOP else 3 * level

    def _add(self, suggested: dict[str, int | str]) -> None:
        self._trial = Trial(self._trials, suggested, datetime.now(UTC))
        self._trials += 1
        self._scheduler.on_trial_add(self._trial)


def moasha(ground: Ground, seed: int) -> PartialTrials:
    """Random candidates, stopped by asynchronous successive halving on their non-dominated rank, with its defaults."""
    np.random.seed(seed)
    metrics = list(ground.objectives)
    scheduler = MOASHA(space(Choices(ground, seed)), metrics, time_attr="level", max_t=LEVELS, random_seed=seed)
    return PartialTrials(ground, Halving(scheduler, metrics), seed)


def evolution(ground: Ground, seed: int) -> WholeTrials:
    """Regularized evolution with a population of 100 and non-dominated sorting, its defaults."""
    np.random.seed(seed)
    metrics = list(ground.objectives)
    knobs = space(Choices(ground, seed))
    scheduler = SingleFidelityScheduler(
        knobs, metrics, searcher=MultiObjectiveRegularizedEvolution(knobs, random_seed=seed), random_seed=seed
    )
    return WholeTrials(ground, Scheduler(scheduler, metrics, (0.0,) * len(metrics)), seed)


def ehvi(ground: Ground, seed: int) -> WholeTrials:
    """Expected hypervolume improvement over Gaussian processes, with two departures from ``baselines.EHVI`` of 0.16.0.

    In double precision, its default, it ends with "expected scalar type Double but found Float" on BoTorch 0.18.1. And
    its reference point is fixed at 2 in every negated objective, which is -2 in the objectives that it is told: with
    objectives above that nothing improves, and it searches at random. So it runs in single precision, and each
    objective is shifted until its own reference lies at -2.
    """
    np.random.seed(seed)
    metrics = list(ground.objectives)
    knobs = space(Choices(ground, seed))
    shift = tuple(-2.0 - worst for worst in losses(ground, dict(ground.reference)))
    searcher = ExpectedHyperVolumeImprovement(knobs, double_precision=False, random_seed=seed)
    scheduler = SingleFidelityScheduler(knobs, metrics, searcher=searcher, random_seed=seed)
    return WholeTrials(ground, Scheduler(scheduler, metrics, shift), seed)
