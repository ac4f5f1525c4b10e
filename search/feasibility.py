"""What a profile rules out before anything is built."""

from hardware_profiles.profile import Profile
from spaces.candidate import Candidate
from spaces.space import Space

_BYTES_PER_FP16_BYTE = {"fp16": 1.0, "int8": 0.5, "int4": 0.25}


def unfit(candidate: Candidate, space: Space, device: Profile) -> str | None:
    """Why the candidate cannot run on the device; null where it may.

    A bundle needs at least the memory of its weights: those of the checkpoint's files, at the bits it is deployed with.
    """
    folder = space.folder / str(candidate.values["model.path"])
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    bits = str(candidate.values.get("quantization.weights", "fp16"))
    pruned = 1 - float(candidate.values.get("pruning.ffn", 0))
    least = int(files * _BYTES_PER_FP16_BYTE.get(bits, 0.0) * pruned)
    if least <= device.memory_bytes:
        return None
    return f"the weights alone need {least / 1e9:.1f} GB, and the device has {device.memory_bytes / 1e9:.1f} GB."
