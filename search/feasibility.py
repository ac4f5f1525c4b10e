"""What a profile rules out before anything is built."""

from functools import cache
from pathlib import Path

from hardware_profiles.profile import Profile
from spaces.candidate import Candidate
from spaces.estimate import estimate
from spaces.shape import Shape, read_shape
from spaces.space import Space

_read = cache(read_shape)


def unfit(candidate: Candidate, space: Space, device: Profile) -> str | None:
    """Why the candidate cannot run on the device; null where it may.

    It cannot where the least memory that it needs (see `spaces.estimate.Estimate`) is more than the device has.
    """
    choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    least = estimate(shape_of(space, candidate), choices).memory_bytes
    if least <= device.memory_bytes:
        return None
    return (
        f"the weights and the cache of one image alone need {in_bytes(least)}, "
        f"and the device has {in_bytes(device.memory_bytes)}."
    )


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
