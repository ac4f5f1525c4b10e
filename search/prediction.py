"""Stands in for a device that cannot be reached, where a search asks for it: figures predicted from a profile.

Such a trial has no measurement: its latency and memory are predictions with their intervals, and it is labelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hardware_profiles.profile import Profile, named
from hardware_profiles.roofline import Calibration, Interval
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
        assert found.latency_ms is not None, "predicted_device refuses such a profile"
        return {
            "latency_p50_ms": _figure(found.latency_ms, 1.0),
            "memory_peak_mb": _figure(found.memory_bytes, _MB),
        }


def predicted_device(name: str, runtimes: tuple[str, ...], calibration: Calibration | None = None) -> Predicted:
    """The stand-in for the device of this profile: a built-in one's name, or a YAML file.

    Raises:
        BadInput: there is no such profile, or it has no figure that bounds the latency of one of the runtimes.
    """
    profile = named(name)
    for runtime in runtimes:
        unit, processor = profile.processor(runtime)
        if not processor.bandwidth and not any(processor.peak.values()):
            raise BadInput(
                f"the profile {profile.name} has neither memory bandwidth nor peak of its {unit}, which {runtime} runs "
                f"on; pair a {profile.title or 'device'} and measure, or take a profile with figures."
            )
    return Predicted(profile=profile, calibration=calibration)


def _figure(interval: Interval, unit: float) -> Figure:
    return Figure(value=interval.value / unit, low=interval.low / unit, high=interval.high / unit)
