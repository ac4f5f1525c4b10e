"""Candidates in random order, none twice: the baseline that any search has to beat."""

import numpy as np

from replay.engine import Ground
from replay.peers.choices import Choices
from replay.peers.whole_trials import Losses, WholeTrials


class Shuffled:
    """A random permutation of the candidates."""

    def __init__(self, candidates: int, seed: int) -> None:
        self._rows = iter(np.random.default_rng(seed).permutation(candidates).tolist())

    def suggest(self, choices: Choices) -> int:  # noqa: ARG002
        return int(next(self._rows))

    def take(self, choices: Choices, row: int) -> None:
        """Never called: no candidate comes twice."""

    def learn(self, losses: Losses | None) -> None:
        """Nothing is learned."""


def random_search(ground: Ground, seed: int) -> WholeTrials:
    """Random search without repetition."""
    return WholeTrials(ground, Shuffled(len(ground.codes), seed), seed)
