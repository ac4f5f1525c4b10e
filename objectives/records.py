"""The records that a run folder keeps beside trials, and how each of them becomes JSON and comes back equal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from hardware_profiles.messages import Measurement
from objectives.trial import Figure, Trial


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """One item as a trial answered it."""

    id: str
    answer: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The accuracy that a task gives away without looking: what a candidate must beat.

    Attributes:
        name: ``commonest_answer`` or ``blank_image``.
        explained: what was done, in one sentence.
    """

    name: str
    explained: str
    accuracy: Figure
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HoldoutUse:
    """One use of the holdout split. ``repeat``: it was used before in this run, so its figure is no longer unbiased."""

    purpose: str
    trials: tuple[int, ...]
    repeat: bool
    time: float


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One repeated measurement of a device's reference trial. ``time`` is seconds since the epoch."""

    trial: int
    device: str
    time: float
    measurement: Measurement


@dataclass(frozen=True, kw_only=True)
class DeviceEvent:
    """Something that happened to a device of a run. ``time`` is seconds since the epoch.

    ``event``: ``lost`` is away so long that the search went on without it; ``interrupted``: it was silent or lost a
    job, and went on.
    """

    device: str
    time: float
    event: Literal["opened", "lost", "back", "interrupted"]
    reason: str = ""


_finite = with_config(ConfigDict(allow_inf_nan=False))

TRIAL = TypeAdapter(_finite(Trial))
MEASUREMENT = TypeAdapter(_finite(Measurement))
BASELINES = TypeAdapter(tuple[Baseline, ...], config=ConfigDict(allow_inf_nan=False))
ANSWER = TypeAdapter(_finite(ScoredAnswer))
USE = TypeAdapter(_finite(HoldoutUse))
REFERENCE = TypeAdapter(_finite(Reference))
EVENT = TypeAdapter(_finite(DeviceEvent))


def trial_as_json(trial: Trial) -> str:
    """A trial as JSON text; :func:`trial_from_json` gives an equal trial back.

    Raises:
        ValueError: for a figure that is NaN or infinite.
    """
    return json.dumps(TRIAL.dump_python(trial, mode="python"), indent=1, ensure_ascii=False, allow_nan=False)


def trial_from_json(text: str | bytes) -> Trial:
    """The trial in a JSON text.

    Raises:
        ValueError: where the text is not one.
    """
    return TRIAL.validate_json(text, strict=True)
