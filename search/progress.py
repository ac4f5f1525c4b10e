"""What is known of a trial while it is evaluated, and where its time goes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from objectives.registry import Objective, Outcome
from objectives.trial import Figure, StageCost
from spaces.errors import StageFailed
from spaces.printable import printable

PHASES = ("build", "score", "measure", "reference", "wait")
_MOST_SHOWN = 200


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
            StageFailed: a plug-in's objective broke, or gave something else than a Figure of finite numbers.
        """
        self.outcome = replace(self.outcome, **known)
        for name, objective in self.objectives.items():
            try:
                figure = objective.figure(self.outcome)
                _refuse_unsound(figure)
            except Exception as error:
                raise StageFailed(f"the objective {name} broke: {type(error).__name__}: {error}") from error
            if figure.value is not None:
                self.figures[name] = figure


def _refuse_unsound(figure: object) -> None:
    """What cannot be kept as a trial's JSON and read again is no figure."""
    if isinstance(figure, Figure) and type(figure.n) is int:
        bounds = [one for one in (figure.value, figure.low, figure.high) if one is not None]
        if all(isinstance(one, int | float) and type(one) is not bool and math.isfinite(one) for one in bounds):
            return
    raise TypeError(f"a Figure of finite numbers is expected, not {printable(repr(figure), _MOST_SHOWN)}")


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
