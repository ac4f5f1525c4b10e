"""What the torch runtime does on an NVIDIA GPU: nothing here touches CUDA, or torch, before it is called."""

from pathlib import Path

from spaces.errors import BadInput

DRIVER = Path("/proc/driver/nvidia/version")  # NVIDIA Linux driver README, "proc file system interface"


def refuse_without() -> None:
    """Raise unless torch can compute on a GPU here.

    Raises:
        BadInput: with what is missing.
    """
    import torch

    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        raise BadInput("the bundle runs on cuda, and this torch is built without CUDA; install a CUDA build of torch.")
    raise BadInput("the bundle runs on cuda, and torch sees no GPU here; look what nvidia-smi says.")


def settle() -> None:
    """Pin f32 arithmetic to f32, since cuDNN rounds convolutions to TF32 by default, and count memory from here."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    """Wait until the GPU has done what it was given: kernels only begin when they are called."""
    import torch

    torch.cuda.synchronize()


def memory_peak_bytes() -> int:
    """The most that torch's allocator took of the GPU's memory since `settle`; CUDA's own context is not in it."""
    import torch

    return torch.cuda.max_memory_reserved()


def report() -> dict[str, str]:
    """The GPU, its driver and what is pinned."""
    import torch

    capability = torch.cuda.get_device_capability()
    return {
        "cuda.device": torch.cuda.get_device_name(),
        "cuda.capability": ".".join(map(str, capability)),
        "cuda.driver": driver(),
        "cuda": str(torch.version.cuda),
        "cuda.tf32": str(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32).lower(),
        "cuda.stamps": "the GPU is waited for at the end of vision and of every token",
    }


def driver(path: Path = DRIVER) -> str:
    """The version of NVIDIA's kernel driver: the first number with a point in the first line; else ``unknown``."""
    try:
        words = path.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
