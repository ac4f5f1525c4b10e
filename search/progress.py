"""What is known of a trial while it is evaluated, and where its time goes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from objectives.registry import Objective, Outcome
from objectives.trial import Figure, StageCost
from spaces.errors import StageFailed

PHASES = ("build", "score", "measure", "reference", "wait")


@dataclass
class Progress:
    """What is known of a trial so far, so that a failure keeps it."""

    outcome: Outcome
    objectives: Mapping[str, Objective]
    stages: list[StageCost] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    figures: dict[str, Figure] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    scoring: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def learn(self, **known: Any) -> None:
        """Take something more of the outcome in and work the figures out again.

        Raises:
            StageFailed: a plug-in's objective broke.
        """
        self.outcome = replace(self.outcome, **known)
        for name, objective in self.objectives.items():
            try:
                figure = objective.figure(self.outcome)
            except Exception as error:
                raise StageFailed(f"the objective {name} broke: {type(error).__name__}: {error}") from error
            if figure.value is not None:
                self.figures[name] = figure


@contextmanager
def timed(progress: Progress, phase: str, turn: AbstractContextManager[None]) -> Iterator[None]:
    """Book the wait for a turn as ``wait`` and the turn itself as its phase."""
    asked = time.monotonic()
    with turn:
        begun = time.monotonic()
        progress.seconds["wait"] += begun - asked
        try:
            yield
        finally:
            progress.seconds[phase] += time.monotonic() - begun
