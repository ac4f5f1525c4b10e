"""NePS's PriMO: MOASHA for a first design, then Bayesian optimization over a scalarization, with the user's priors.

Fidelity is the share of items scored. Where hints say which way a knob drives an objective, that end of the knob is the
center of PriMO's prior for the objective, at the package's default confidence. NePS draws from the global generators,
which are seeded here.
"""

import logging
import random
import warnings
from collections.abc import Mapping

import numpy as np

from replay.engine import Ground
from replay.peers.choices import Choices
from replay.peers.environment import needs
from replay.peers.partial_trials import LEVELS, PartialTrials
from replay.peers.whole_trials import Losses, losses

with needs("neural-pipeline-search", "benchmarks/peers-neps.lock"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import neps
    import torch
    from neps.optimizers.algorithms import primo as make_primo

FIDELITY = "fidelity"
CONFIDENCE = 0.25  # mopriors.py's default
# Trials' worth of fidelity for the first design, where the default, the number of knobs, is less: PriMO ends with an
# assertion if none of them has come to full fidelity by then.
LEAST = 5


class PriMO:
    """PriMO behind NePS's ask-and-tell interface.

    A trial that cannot be built or run is told with the reference as its objectives, as ``objective_value_on_error``
    does in ``neps.run``: PriMO ends with an assertion on a trial that is told as an error.
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        logging.getLogger("neps").setLevel(logging.ERROR)
        choices = Choices(ground, seed)
        self._worst = losses(ground, dict(ground.reference))
        self._ordered = choices.ordered
        self._optimizer = neps.AskAndTell(_optimizer(ground, choices))
        self._trial: neps.Trial = None
        self._placed: dict[str, int | str] | None = None
        self._count = 0

    def suggest(self, choices: Choices) -> int:
        self._placed = None
        trial = self._trial = self._optimizer.ask()
        return choices.row(lambda knob: int(trial.config[knob]))

    def take(self, choices: Choices, row: int) -> None:
        self._placed = {
            knob: code if knob in choices.ordered else str(code) for knob, code in choices.filled(row).items()
        } | {FIDELITY: LEVELS}

    def first(self) -> int:
        return LEVELS if self._placed else int(self._trial.config[FIDELITY])

    def more(self, losses: Losses, level: int) -> int:
        result = {"objective_to_minimize": list(losses)}
        if self._placed:
            self._count += 1
            name = f"{10**6 + self._count}_rung_2"
            self._optimizer.tell_custom(config_id=name, config=self._placed, result=result)
        else:
            self._optimizer.tell(self._trial, result)
        return level

    def learn(self, losses: Losses | None) -> None:  # noqa: ARG002
        self.more(self._worst, 0)


def _optimizer(ground: Ground, choices: Choices) -> object:
    knobs = {
        knob: neps.HPOInteger(0, size - 1)
        if knob in choices.ordered
        else neps.HPOCategorical(list(map(str, range(size))))
        for knob, size in choices.sizes.items()
    }
    centers = {objective: _center(ground, choices, objective) for objective in ground.objectives}
    centers = {objective: center for objective, center in centers.items() if center}
    confidences = {objective: dict.fromkeys(center, CONFIDENCE) for objective, center in centers.items()}
    fidelity = neps.HPOInteger(1, LEVELS, is_fidelity=True)
    return make_primo(
        neps.SearchSpace(knobs | {FIDELITY: fidelity}),
        prior_centers=centers,
        prior_confidences=confidences or None,
        initial_design_size=max(LEAST, len(knobs)),
    )


def _center(ground: Ground, choices: Choices, objective: str) -> Mapping[str, int]:
    """Knob -> the code at the end that a hint says is best for an objective."""
    best = "up" if ground.objectives[objective] == "max" else "down"
    return {
        knob: choices.sizes[knob] - 1 if ground.hints[knob][objective] == best else 0
        for knob in choices.knobs
        if knob in choices.ordered and objective in ground.hints[knob]
    }


def primo(ground: Ground, seed: int) -> PartialTrials:
    """PriMO with its defaults; without hints it has no priors."""
    return PartialTrials(ground, PriMO(ground, seed), seed)
