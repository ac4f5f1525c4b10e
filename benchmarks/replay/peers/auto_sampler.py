"""The rule of OptunaHub's AutoSampler for several objectives, written out: the hub's package is fetched at run time.

Rule and constants: optuna/optunahub-registry, package/samplers/auto_sampler/_sampler.py at 257a04b, by the Optuna team
(MIT). At the start of every trial: a random sampler until one trial is complete; from then on the multivariate TPE
without groups where a knob is conditional. Otherwise, below 250 complete trials, the Gaussian process with fewer than
four objectives and no categories, else TPE; from 250 on NSGA-II, or NSGA-III with four objectives or more, whose first
generation is all trials before it.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from replay.peers.environment import needs

with needs("optuna"):
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
    from optuna.search_space import IntersectionSearchSpace
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

Value: TypeAlias = str | int | float | bool | None
SWITCH = 250  # complete trials
MANY = 4  # objectives


class AutoSampler(BaseSampler):  # type: ignore[misc]
    """Chooses one of Optuna's samplers before each trial and leaves the trial to it."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._sampler: BaseSampler = RandomSampler(seed=self._seed())

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if complete:
            kind = self._kind(study, complete)
            if not isinstance(self._sampler, kind):
                self._sampler = self._make(kind)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._sampler.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Mapping[str, Value]:
        genetic = NSGAIISampler if len(study.directions) < MANY else NSGAIIISampler
        if not isinstance(self._sampler, genetic):
            study._storage.set_trial_system_attr(trial._trial_id, genetic._get_generation_key(), 0)
        sampled: Mapping[str, Value] = self._sampler.sample_relative(study, trial, search_space)
        return sampled

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Value:
        sampled: Value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return sampled

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _kind(self, study: Study, complete: Sequence[FrozenTrial]) -> type:
        tpe: type = TPESampler
        if any(trial.params.keys() != complete[0].params.keys() for trial in complete):
            return tpe
        many = len(study.directions) >= MANY
        if len(complete) >= SWITCH:
            genetic: type = NSGAIIISampler if many else NSGAIISampler
            return genetic
        space = IntersectionSearchSpace().calculate(study)
        categories = any(isinstance(distribution, CategoricalDistribution) for distribution in space.values())
        model: type = tpe if many or categories else GPSampler
        return model

    def _make(self, kind: type) -> BaseSampler:
        if kind is TPESampler:
            return TPESampler(seed=self._seed(), multivariate=True, constant_liar=True)
        return kind(seed=self._seed())

    def _seed(self) -> int:
        return int(self._random.integers(2**31))
