"""What a profile rules out before anything is built, and what a preflight rules out before anything is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from hardware_profiles.profile import Profile
from hardware_profiles.roofline import Calibration, Prediction, predict
from hardware_profiles.wire import Preflight
from spaces.candidate import Candidate
from spaces.estimate import Choices
from spaces.shape import Shape, read_shape
from spaces.space import Space
from spaces.work import ANSWER_TOKENS, SERVED, TEXT_TOKENS, pinned_device, work

PREDICTED = "refused by prediction"
"""The label of a trial that was not built because of a prediction."""
_read = cache(read_shape)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a candidate is not built: the sentence for the trial's ``violated``."""

    kind: Literal["memory", "dtype", "latency"]
    reason: str


def refused(
    candidate: Candidate,
    space: Space,
    device: Profile,
    limits: Mapping[str, Mapping[str, float]],
    calibration: Calibration | None = None,
) -> Refusal | None:
    """Why the candidate need not be built for the device; null where it may well fit.

    A server's model is its own, so nothing is refused of it. Hard where the device cannot hold its weights or compute
    in its precision. By latency only where the calibrated interval's low end misses the limit: anything less would
    refuse what fits.
    """
    choices = candidate_choices(space, candidate)
    runtime = str(choices["runtime"]["name"])
    if runtime == SERVED:
        return None
    if reason := unfit(candidate, space, device):
        return Refusal(kind="memory", reason=reason)
    precision = str(choices["runtime"]["inference_precision"])
    if runtime == "openvino" and not _computes(device, precision):
        computed = ", ".join(device.dtypes)
        return Refusal(kind="dtype", reason=f"{device.name} computes {computed} natively, and {precision} is pinned.")
    most = limits.get("latency_p50_ms", {}).get("max")
    if calibration is None or most is None:
        return None
    found = predicted(candidate, space, device, calibration)
    latency = found.latency_ms
    if latency is None or latency.low <= most or not found.anchored:
        return None
    return Refusal(
        kind="latency",
        reason=f"latency_p50_ms is predicted to be at least {latency.low:.4g} on {device.name} "
        f"(from {calibration.anchors} measurements there), and its limit is max {most:g}",
    )


def unfit(candidate: Candidate, space: Space, device: Profile) -> str | None:
    """Why the candidate cannot run on the device; null where it may.

    It cannot where the least memory that it needs (see `spaces.estimate.Estimate`) is more than the device has.
    """
    choices = candidate_choices(space, candidate)
    room = device.room(str(choices["runtime"]["name"]), pinned_device(choices))
    least = work(shape_of(space, candidate), choices).memory_bytes
    if room is None or least <= room:
        return None
    return f"the weights and the cache of one image alone need {in_bytes(least)}, and the device has {in_bytes(room)}."


def predicted(
    candidate: Candidate,
    space: Space,
    device: Profile,
    calibration: Calibration | None = None,
    text_tokens: int = TEXT_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
) -> Prediction:
    """Latency and memory of the candidate on the device, from the shape of its model."""
    choices = candidate_choices(space, candidate)
    asked = work(shape_of(space, candidate), choices, text_tokens, answer_tokens)
    return predict(asked, device, str(choices["runtime"]["name"]), calibration)


def fallbacks(found: Preflight) -> tuple[str, ...]:
    """The label of a bundle some of whose operations leave the accelerator; none where all of them stay."""
    count = len(found.fallback)
    if not count:
        return ()
    more = f" and {count - 1} more" if count > 1 else ""
    return (f"{count} of {found.operations} operations leave {found.device} ({next(iter(found.fallback))}{more})",)


def candidate_choices(space: Space, candidate: Candidate) -> Choices:
    """Every axis' choice of the candidate."""
    return {axis.name: space.choice(candidate, axis) for axis in space.axes}


def shape_of(space: Space, candidate: Candidate) -> Shape:
    """The shape of the candidate's model, read once a process."""
    folder: Path = space.folder / str(candidate.values["model.path"])
    return _read(folder.resolve())


def in_bytes(count: float) -> str:
    """A number of bytes in words: MB below a gigabyte (10^9 bytes), GB from there on."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    digits = 0 if count >= 1e8 else 1 if count >= 1e7 else 2
    return f"{count / 1e6:.{digits}f} MB"


def _computes(device: Profile, precision: str) -> bool:
    """An empty list of dtypes is one that is not known. f16 is not reported by agents, so it refuses nothing."""
    return not device.dtypes or precision in device.dtypes or precision == "f16"
