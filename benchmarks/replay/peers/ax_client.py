"""Ax through its Client with the generation strategy that it chooses itself.

Objectives are told with the reference as their threshold, as Ax documents for several objectives. A candidate that
cannot be built or run is marked abandoned, which keeps Ax from suggesting it again; a failed one it may repeat. The
space is flat. Ax's models draw from torch's global generator, which is seeded here.
"""

import logging
import warnings

from replay.engine import Ground
from replay.peers.choices import Choices
from replay.peers.environment import needs
from replay.peers.whole_trials import Losses, WholeTrials, losses

with needs("ax-platform"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig
    from ax.utils.common.logger import set_ax_logger_levels


class AxClient:
    """An Ax experiment over the knobs: an ordered one as ordered codes, any other as unordered names."""

    def __init__(self, ground: Ground, seed: int) -> None:
        set_ax_logger_levels(logging.ERROR)
        torch.manual_seed(seed)
        choices = Choices(ground, seed)
        self._names = {knob: f"k{position}" for position, knob in enumerate(choices.knobs)}
        self._metrics = [f"o{position}" for position in range(len(ground.objectives))]
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(parameters=[self._parameter(choices, knob) for knob in choices.knobs])
        self._client.configure_optimization(
            objective=", ".join(f"-{metric}" for metric in self._metrics),
            outcome_constraints=[
                f"{metric} <= {worst:.9f}"
                for metric, worst in zip(self._metrics, losses(ground, dict(ground.reference)), strict=True)
            ],
        )
        self._client.configure_generation_strategy(initialization_random_seed=seed)
        self._trial = -1

    def suggest(self, choices: Choices) -> int:
        ((self._trial, parameters),) = self._client.get_next_trials(max_trials=1).items()
        return choices.row(lambda knob: int(parameters[self._names[knob]]))

    def take(self, choices: Choices, row: int) -> None:
        filled = choices.filled(row)
        self._trial = self._client.attach_trial(
            {self._names[knob]: code if knob in choices.ordered else str(code) for knob, code in filled.items()}
        )

    def learn(self, losses: Losses | None) -> None:
        if losses is None:
            self._client.mark_trial_abandoned(self._trial)
        else:
            self._client.complete_trial(self._trial, raw_data=dict(zip(self._metrics, losses, strict=True)))

    def _parameter(self, choices: Choices, knob: str) -> ChoiceParameterConfig:
        codes = range(choices.sizes[knob])
        ordered = knob in choices.ordered
        values = list(codes) if ordered else list(map(str, codes))
        kind = "int" if ordered else "str"
        return ChoiceParameterConfig(name=self._names[knob], values=values, parameter_type=kind, is_ordered=ordered)


def ax(ground: Ground, seed: int) -> WholeTrials:
    """Ax's default for several objectives: a center and Sobol points, then qLogNEHVI over mixed knobs."""
    return WholeTrials(ground, AxClient(ground, seed), seed)
