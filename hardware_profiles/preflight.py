"""Whether a bundle can run on this device and what would leave its accelerator, asked of the runtime before anything is
measured. Runs on the device: ``python -I -m hardware_profiles.preflight FOLDER [DEVICE]`` prints one line of JSON.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hardware_profiles.agent import proc
from hardware_profiles.bundle import Bundle, open_bundle
from hardware_profiles.wire import Preflight, dump
from spaces.errors import BadInput
from spaces.signal_stack import kept_signal_stack
from spaces.telemetry import stop_telemetry

_GRAPHS = ("openvino_vision_embeddings_model", "openvino_text_embeddings_model", "openvino_language_model")
_NO_WORK = {"Constant", "Parameter", "Result"}
_SPLITTING = ("HETERO:", "AUTO:", "MULTI:")
_WEIGHTS = (".bin", ".safetensors", ".gguf")
_OPENVINO_NAMES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
_CAPABILITY = {"bf16": (8, 0), "f16": (5, 3)}
"""Least CUDA compute capability with arithmetic in the type (CUDA C++ Programming Guide, table of throughputs)."""


def preflight(folder: Path, device: str | None = None) -> Preflight:
    """What the bundle's runtime says of it on ``device``; null is where the runtime would run it by itself.

    ``operations`` is 0 where the runtime does not say where operations run; ``device`` then says so.

    Raises:
        BadInput: the folder is no bundle.
    """
    bundle = open_bundle(folder, verify=False)
    runtime = bundle.manifest.runtime
    asked = _ASKED.get(runtime)
    if asked is None:
        found = Preflight(device=f"runtime {runtime}, which cannot say", operations=0, fallback={})
    elif importlib.util.find_spec(runtime) is None:
        found = Preflight(device=device or "none", operations=0, fallback={}, reasons=(f"{runtime} is not installed",))
    else:
        found = asked(bundle, device)
    return Preflight(
        device=found.device,
        operations=found.operations,
        fallback=found.fallback,
        reasons=(*found.reasons, *_too_much(bundle)),
    )


@kept_signal_stack()
def _openvino(bundle: Bundle, device: str | None) -> Preflight:
    stop_telemetry()
    import openvino as ov

    return asked_of(ov.Core(), bundle, device or "CPU")


def asked_of(core: Any, bundle: Bundle, device: str) -> Preflight:
    """What an OpenVINO core says of each graph on the device; with ``HETERO:GPU,CPU`` the first one counts."""
    splits = device.startswith(_SPLITTING)
    first = device.split(":", 1)[1].split(",")[0] if splits else device
    try:
        able = {str(name) for name in core.get_property(first, "OPTIMIZATION_CAPABILITIES")}
    except RuntimeError as error:
        return Preflight(device=device, operations=0, fallback={}, reasons=(_line(f"{first} cannot be used", error),))
    reasons = list(_lacking(bundle, first, able))
    fallback: dict[str, str] = {}
    operations = 0
    for name in _GRAPHS:
        path = bundle.folder / f"{name}.xml"
        if not path.is_file():
            reasons.append(f"{path.name} is missing, which openvino needs")
            continue
        try:
            model = core.read_model(path)
            placed = core.query_model(model, device)
        except RuntimeError as error:
            reasons.append(_line(f"{path.name} is refused", error))
            continue
        working = [node for node in model.get_ordered_ops() if node.get_type_name() not in _NO_WORK]
        operations += len(working)
        for node in working:
            where = placed.get(node.get_friendly_name())
            if where not in (first, device.split(":", 1)[0]):
                why = f"{first} does not take it, {f'{where} would' if where else 'and nothing else here does'}"
                fallback[f"{path.stem}: {node.get_type_name()} {node.get_friendly_name()}"] = why
    if fallback and not splits:
        reasons.append(f"{len(fallback)} of {operations} operations cannot run on {device}")
    return Preflight(device=device, operations=operations, fallback=fallback, reasons=tuple(reasons))


def _lacking(bundle: Bundle, device: str, able: set[str]) -> Iterator[str]:
    """Precisions that are pinned and that the device does not compute; every OpenVINO device runs f32 graphs."""
    pinned = bundle.manifest.execution.inference_precision
    if pinned != "f32" and _OPENVINO_NAMES[pinned] not in able:
        computed = ", ".join(name for name, theirs in _OPENVINO_NAMES.items() if theirs in able)
        yield f"{pinned} is pinned, and {device} computes {computed or 'f32'} natively"


def _torch(bundle: Bundle, device: str | None) -> Preflight:
    import torch

    cuda = torch.cuda.is_available()
    wanted = device or ("cuda:0" if bundle.manifest.execution.device == "cuda" else "cpu")
    reasons = []
    if wanted.startswith("cuda") and not cuda:
        reasons.append("torch sees no CUDA device")
    elif wanted.startswith("cuda"):
        capability = torch.cuda.get_device_capability(wanted)
        reasons += _cuda(capability, torch.cuda.get_arch_list(), bundle.manifest.execution.inference_precision)
        weights, total = _weights_bytes(bundle), torch.cuda.get_device_properties(wanted).total_memory
        if weights > total:
            reasons.append(f"its weights are {weights} bytes, and {wanted} has {total}")
        wanted += f" ({torch.cuda.get_device_name(wanted)}, compute capability {capability[0]}.{capability[1]})"
    said = f"{wanted}; torch cannot say which operations leave it"
    return Preflight(device=said, operations=0, fallback={}, reasons=tuple(reasons))


def _cuda(capability: tuple[int, int], built_for: list[str], precision: str) -> Iterator[str]:
    """Why torch, with kernels for these architectures, cannot compute in a precision on a GPU of this capability.

    A cubin runs on its major version at the same minor or a later one; PTX (``compute_80``) on everything later.
    """
    major, minor = capability
    cubins = [divmod(int(name[3:].rstrip("af")), 10) for name in built_for if name.startswith("sm_")]
    texts = [divmod(int(name[8:].rstrip("af")), 10) for name in built_for if name.startswith("compute_")]
    if not any(one[0] == major and one[1] <= minor for one in cubins) and not any(one <= capability for one in texts):
        kernels = ", ".join(built_for) or "no GPU"
        yield f"this torch is built for {kernels}, and the GPU is of capability {major}.{minor}"
    if capability < _CAPABILITY.get(precision, (0, 0)):
        yield f"{precision} is pinned, and a GPU of capability {major}.{minor} does not compute it"


_ASKED: Mapping[str, Callable[[Bundle, str | None], Preflight]] = {"openvino": _openvino, "torch": _torch}


def _too_much(bundle: Bundle) -> Iterator[str]:
    """What the bundle needs and this machine does not have."""
    weights, total = _weights_bytes(bundle), proc.memory_total_bytes()
    if weights > total:
        yield f"its weights are {weights} bytes, and the machine has {total}"
    threads, here = bundle.manifest.execution.threads, len(os.sched_getaffinity(0))
    if threads > here:
        yield f"{threads} threads are pinned, and the runner may use {here}"


def _weights_bytes(bundle: Bundle) -> int:
    return sum(entry.size for name, entry in bundle.manifest.files.items() if name.endswith(_WEIGHTS))


def _line(what: str, error: Exception) -> str:
    """The last line that says something of an error of many: OpenVINO begins with where in its source it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Exception from")] or lines or [type(error).__name__]
    return f"{what}: {said[0][:300]}"


def main(arguments: list[str]) -> int:
    """Print the preflight of a folder as one line of JSON; 2 with one sentence on stderr where it is no bundle."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -I -m hardware_profiles.preflight FOLDER [DEVICE]", file=sys.stderr)
        return 2
    try:
        found = preflight(Path(arguments[0]), arguments[1] if len(arguments) == 2 else None)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(dump(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
