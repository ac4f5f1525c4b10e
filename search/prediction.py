"""Predictions in a search: calibrated by its own trials, and in place of a device that cannot be reached, if asked to.

A trial without a device has no measurement: latency and memory are predicted, with intervals, and it is labelled.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from hardware_profiles.profile import Profile, built_in, named
from hardware_profiles.roofline import LEAST_ANCHORS, Anchor, Calibration, Interval, bounded, calibrate
from objectives.trial import Figure, Trial
from search.feasibility import candidate_choices, predicted, shape_of
from spaces.candidate import Candidate
from spaces.errors import BadInput
from spaces.space import Space
from spaces.work import work

_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A device that is only known by its profile."""

    profile: Profile

    @property
    def label(self) -> str:
        """What every trial of it is labelled with."""
        return f"predicted from the profile {self.profile.name}, not measured"

    def figures(self, candidate: Candidate, space: Space) -> Mapping[str, Figure]:
        """The predicted figures. They rest on no observation: ``n`` is 0.

        Raises:
            BadInput: the profile lacks figures of the processor that the candidate pins.
        """
        found = predicted(candidate, space, self.profile)
        if found.latency_ms is None:
            runtime = candidate_choices(space, candidate)["runtime"]
            raise BadInput(_lacking(self.profile, str(runtime["name"]), str(runtime.get("device", ""))))
        return {
            "latency_p50_ms": _figure(found.latency_ms, 1.0),
            "memory_peak_mb": _figure(found.memory_bytes, _MB),
        }


def calibration_of(trials: Iterable[Trial], space: Space, device: Profile, runtime: str) -> Calibration | None:
    """What a run's own trials say of the device: each that was measured there is an anchor; null while they are few.

    Of the processor that most of them ran on. Trials that deploy the same share one measurement, which counts once.
    """
    anchors = {one.deployed: anchor for one in trials if (anchor := _anchor(one, space, runtime))}
    on = Counter(device.processor(runtime, one.work.device)[0] for one in anchors.values()).most_common(1)
    same = [one for one in anchors.values() if device.processor(runtime, one.work.device)[0] == on[0][0]]
    return calibrate(same, device, runtime) if len(same) >= LEAST_ANCHORS else None


def predicted_device(name: str, runtimes: tuple[str, ...], devices: tuple[str, ...] = ("",)) -> Predicted:
    """The stand-in for the device of this profile: a built-in one's name, or a YAML file.

    ``runtimes`` and ``devices`` are the values that ``runtime.name`` and ``runtime.device`` have in the space.

    Raises:
        BadInput: there is no such profile, or it lacks figures that bound the latency of one of the runtimes.
    """
    profile = named(name)
    for runtime, device in product(runtimes, devices):
        if not bounded(profile.processor(runtime, device)[1]):
            raise BadInput(_lacking(profile, runtime, device))
    return Predicted(profile=profile)


def _lacking(profile: Profile, runtime: str, device: str) -> str:
    unit, _ = profile.processor(runtime, device)
    other, faster = profile.processor(runtime)
    cure = "set runtime.device: cuda, " if unit == "cpu" and other != "cpu" and bounded(faster) else ""
    enough = ", ".join(one.name for one in built_in() if bounded(one.processor(runtime, device)[1]))
    return (
        f"the profile {profile.name} lacks the bandwidth or the peak of its {unit}, which {runtime} runs on; {cure}"
        f"pair the device and measure, or take a profile that has both: {f'{enough}, or ' if enough else ''}a file of "
        "your own."
    )


def _anchor(trial: Trial, space: Space, runtime: str) -> Anchor | None:
    """Null for a trial that was not measured, of another runtime, or of a candidate that the space no longer has."""
    latency, memory = (trial.figures.get(name, Figure(value=None)) for name in ("latency_p50_ms", "memory_peak_mb"))
    if not (latency.n and latency.value and memory.n and memory.value):
        return None
    try:
        candidate = space.candidate(trial.candidate)
        choices = candidate_choices(space, candidate)
        asked = work(shape_of(space, candidate), choices)
    except BadInput:
        return None
    if choices["runtime"]["name"] != runtime:
        return None
    return Anchor(work=asked, latency_ms=latency.value, memory_bytes=memory.value * _MB)


def _figure(interval: Interval, unit: float) -> Figure:
    """An end that is not bounded is null: a figure is finite."""
    high = interval.high / unit
    return Figure(value=interval.value / unit, low=interval.low / unit, high=high if math.isfinite(high) else None)
