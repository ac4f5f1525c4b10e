"""Stands in for a device that cannot be reached, where a search asks for it: figures predicted from a profile.

Such a trial has no measurement: its latency and memory are predictions with their intervals, and it is labelled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hardware_profiles.profile import Profile, named
from hardware_profiles.roofline import Calibration, Interval, bounded
from objectives.trial import Figure
from search.feasibility import predicted
from spaces.candidate import Candidate
from spaces.errors import BadInput
from spaces.space import Space

FIGURES = ("latency_p50_ms", "memory_peak_mb")
"""What is predicted; every other figure of a measurement stays unknown."""
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A device that is only known by its profile; ``calibration`` where it was calibrated when it could be reached."""

    profile: Profile
    calibration: Calibration | None = None

    @property
    def label(self) -> str:
        """What every trial of it is labelled with."""
        return f"predicted from the profile {self.profile.name}, not measured"

    def figures(self, candidate: Candidate, space: Space) -> Mapping[str, Figure]:
        """The predicted figures. They rest on no observation: ``n`` is 0."""
        found = predicted(candidate, space, self.profile, self.calibration)
        latency = _figure(found.latency_ms, 1.0) if found.latency_ms else Figure(value=None)
        return {"latency_p50_ms": latency, "memory_peak_mb": _figure(found.memory_bytes, _MB)}


def predicted_device(name: str, runtimes: tuple[str, ...], calibration: Calibration | None = None) -> Predicted:
    """The stand-in for the device of this profile: a built-in one's name, or a YAML file.

    Raises:
        BadInput: there is no such profile, or it lacks figures that bound the latency of one of the runtimes.
    """
    profile = named(name)
    for runtime in runtimes:
        unit, processor = profile.processor(runtime)
        if calibration is None and not bounded(processor):
            raise BadInput(
                f"the profile {profile.name} lacks the bandwidth or the peak of its {unit}, which {runtime} runs on; "
                f"pair a {profile.title or 'device'} and measure, or take a profile with figures."
            )
    return Predicted(profile=profile, calibration=calibration)


def _figure(interval: Interval, unit: float) -> Figure:
    """An end that is not bounded is null: a figure is finite."""
    high = interval.high / unit
    return Figure(value=interval.value / unit, low=interval.low / unit, high=high if math.isfinite(high) else None)
