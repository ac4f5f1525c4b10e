"""What is known of a trial while it is evaluated, and where its time goes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from hardware_profiles.messages import Measurement
from objectives.devices import Bound
from objectives.registry import Objective, Outcome, of_device
from objectives.trial import DeviceResult, Figure, StageCost
from spaces.errors import StageFailed
from spaces.printable import printable

PHASES = ("build", "score", "measure", "reference", "wait")
_MOST_SHOWN = 200


@dataclass
class Progress:
    """What is known of a trial so far, so that a failure keeps it.

    ``several``: the search has several devices, so what one of them measured is its own.
    """

    outcome: Outcome
    objectives: Mapping[str, Objective]
    several: bool = False
    deployed: str = ""
    devices: dict[str, DeviceResult] = field(default_factory=dict)
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
        answering = [device for device, own in self.outcome.on.items() if "answers" in own]
        for name, objective in self.objectives.items():
            found = {name: objective}
            if not of_device(objective):
                found |= {one.name: one for one in (Bound(objective, device) for device in answering)}
            self.figures |= {
                key: figure for key, one in found.items() if (figure := self._figure(key, one)).value is not None
            }

    def learn_on(self, device: str, **known: Any) -> None:
        """Take in what is known of one device, as :meth:`learn`."""
        if not self.several:
            return self.learn(**known)
        on = self.outcome.on
        return self.learn(on={**on, device: {**on.get(device, {}), **known}})

    def measurement(self, device: str) -> Measurement | None:
        """What a device measured; null where it did not."""
        found = self.outcome.on.get(device, {}).get("measurement") if self.several else self.outcome.measurement
        return found if found is None or isinstance(found, Measurement) else None

    def label(self, device: str, *labels: str, **changed: Any) -> None:
        """Add labels to what became of the trial on a device, and change what else is given."""
        now = self.devices[device]
        self.devices[device] = replace(now, labels=(*now.labels, *labels), **changed)

    def _figure(self, name: str, objective: Objective) -> Figure:
        try:
            figure = objective.figure(self.outcome)
            _refuse_unsound(figure)
        except Exception as error:
            raise StageFailed(f"the objective {name} broke: {type(error).__name__}: {error}") from error
        return figure


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
