"""Optuna's samplers, asked and told as its documentation shows.

A trial that cannot be built or run is told as FAIL, which is what Optuna's own ``optimize`` does with an exception.
"""

import warnings
from collections.abc import Callable

from replay.engine import Ground
from replay.peers.auto_sampler import AutoSampler
from replay.peers.choices import Choices
from replay.peers.environment import needs
from replay.peers.whole_trials import Losses, WholeTrials

with needs("optuna"):
    import optuna
    from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler


class Study:
    """An Optuna study over the knobs: an ordered one as an integer, any other as a category.

    Args:
        conditional: define-by-run: ask only for knobs that count. TPE in groups learns from that; a sampler that knows
            only the knobs common to all trials would leave the others to chance, so those get a flat space.
    """

    def __init__(self, sampler: BaseSampler, objectives: int, *, conditional: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
        self._conditional = conditional
        self._trial: optuna.Trial | None = None

    def suggest(self, choices: Choices) -> int:
        trial = self._trial = self._study.ask()

        def pick(knob: str) -> int:
            size = choices.sizes[knob]
            if knob in choices.ordered:
                return int(trial.suggest_int(knob, 0, size - 1))
            return int(trial.suggest_categorical(knob, range(size)))

        if self._conditional:
            return choices.row(pick)
        picked = {knob: pick(knob) for knob in choices.knobs}
        return choices.row(picked.__getitem__)

    def take(self, choices: Choices, row: int) -> None:
        self._study.enqueue_trial(choices.chosen(row) if self._conditional else choices.filled(row))
        self.suggest(choices)

    def learn(self, losses: Losses | None) -> None:
        if losses is None:
            self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._trial, losses)


def _peer(ground: Ground, seed: int, sampler: Callable[[], BaseSampler], *, conditional: bool) -> WholeTrials:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = Study(sampler(), len(ground.objectives), conditional=conditional)
    return WholeTrials(ground, study, seed)


def tpe(ground: Ground, seed: int) -> WholeTrials:
    """The multivariate tree-structured Parzen estimator, with groups for conditional knobs."""
    sampler = lambda: TPESampler(multivariate=True, group=True, seed=seed)  # noqa: E731
    return _peer(ground, seed, sampler, conditional=True)


def nsga2(ground: Ground, seed: int) -> WholeTrials:
    """NSGA-II, Optuna's default for several objectives, with its default population of 50."""
    return _peer(ground, seed, lambda: NSGAIISampler(seed=seed), conditional=False)


def gp(ground: Ground, seed: int) -> WholeTrials:
    """A Gaussian process per objective with the logarithm of the expected hypervolume improvement."""
    return _peer(ground, seed, lambda: GPSampler(seed=seed), conditional=False)


def auto(ground: Ground, seed: int) -> WholeTrials:
    """OptunaHub's AutoSampler."""
    return _peer(ground, seed, lambda: AutoSampler(seed), conditional=True)
