"""What a profile rules out before anything is built."""

import json
import math
from pathlib import Path

from hardware_profiles.profile import Profile
from spaces.axes.model import weight_files
from spaces.candidate import Candidate
from spaces.space import Space

_BYTES = {"fp16": 2.0, "int8": 1.0, "int4": 0.5}


def unfit(candidate: Candidate, space: Space, device: Profile) -> str | None:
    """Why the candidate cannot run on the device; null where it may.

    A bundle needs at least the memory of its weights at the bits that it is deployed with.
    """
    count = parameters(space.folder / str(candidate.values["model.path"]))
    bits = str(candidate.values.get("quantization.weights", "fp16"))
    left = 1 - float(candidate.values.get("pruning.ffn", 0))
    least = int(count * _BYTES[bits] * left)
    if least <= device.memory_bytes:
        return None
    return f"the weights alone need {least / 1e9:.1f} GB, and the device has {device.memory_bytes / 1e9:.1f} GB."


def parameters(folder: Path) -> int:
    """How many numbers a checkpoint holds, from the headers of its safetensors."""
    total = 0
    for name in weight_files(folder):
        if name.endswith(".safetensors"):
            with (folder / name).open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            total += sum(math.prod(one["shape"]) for tensor, one in header.items() if tensor != "__metadata__")
    return total
