"""Refuses candidates before they are built, device by device: by what is known of each, and by what it measured."""

from collections.abc import Callable, Mapping, Sequence

from hardware_profiles.profile import Profile
from hardware_profiles.roofline import Calibration
from objectives.devices import seen_from, split
from objectives.trial import Trial
from search.feasibility import Refusal, candidate_choices, refused
from search.limits import Limits
from search.prediction import calibration_of
from spaces.candidate import Candidate
from spaces.space import Space

_AGAIN = 5
"""A device's calibration is worked out again when this many more trials are known."""


class Refusing:
    """What each device of a run cannot run, or cannot run within its limits. ``profiles`` gives those within reach."""

    def __init__(
        self,
        space: Space,
        profiles: Callable[[], Mapping[str, Profile]],
        limits: Limits,
        trials: Callable[[], Sequence[Trial]],
    ) -> None:
        self._space = space
        self._profiles = profiles
        self._limits = limits
        self._trials = trials
        self._calibrations: dict[tuple[str, str, int], Calibration | None] = {}

    def of(self, candidate: Candidate) -> dict[str, Refusal]:
        """Why each device that refuses the candidate does."""
        runtime = str(candidate_choices(self._space, candidate)["runtime"]["name"])
        found = {}
        for name, profile in self._profiles().items():
            limits = {split(figure)[0]: one for figure, one in self._limits.items() if split(figure)[1] in ("", name)}
            calibration = self._calibration(name, profile, runtime) if "latency_p50_ms" in limits else None
            if refusal := refused(candidate, self._space, profile, limits, calibration):
                found[name] = refusal
        return found

    def _calibration(self, name: str, profile: Profile, runtime: str) -> Calibration | None:
        trials = self._trials()
        key = name, runtime, len(trials) // _AGAIN
        if key not in self._calibrations:
            seen = [seen_from(trial, name) for trial in trials]
            self._calibrations[key] = calibration_of(seen, self._space, profile, runtime)
        return self._calibrations[key]
