"""What a device knows of itself without measuring anything: from /proc, /sys, the device tree, DMI and the runtimes."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from hardware_profiles.agent import confine, proc
from hardware_profiles.agent.files import text
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.agent.state import state_folder
from hardware_profiles.wire import Facts

_FLAGS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"},
}
"""Of `Documentation/arch/x86/cpuinfo` and `Documentation/arch/arm64/elf_hwcaps` in the kernel, as /proc/cpuinfo has
them: the instructions by which a type is computed natively."""
RUNTIMES = {"openvino": "openvino-genai", "torch": "torch"}
"""Name of a runtime -> the distribution whose version is the runtime's."""
_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
}
"""(CPU implementer, CPU part) -> core, as in util-linux's `lscpu-arm.c`."""
_ASK_OPENVINO = """
import json
from spaces.telemetry import stop_telemetry
stop_telemetry()
import openvino
core = openvino.Core()
names = [name for name in core.available_devices if name != "CPU"]
print(json.dumps({name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in names}))
"""
_ASK_S = 60.0


def facts(root: Path = Path("/")) -> Facts:
    """What this machine is; ``root`` is where /proc and /sys are looked for.

    Only what may change is looked up anew (governor, power mode); asking the runtimes happens once a process.
    """
    return Facts(
        machine=platform.machine(),
        model=model(root),
        cpu=cpu(root),
        memory_bytes=proc.memory_total_bytes(root / "proc"),
        threads=len(os.sched_getaffinity(0)),
        dtypes=dtypes(root),
        accelerators=accelerators(),
        sensors=Sensors(root).describe(),
        platform=settings(root),
        isolation=confine.describe(state_folder()),
    )


def boot_id() -> str:
    """The kernel's name for this boot; see random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def runtimes() -> dict[str, str]:
    """Name -> version of each runtime that is installed; nothing of it is imported."""
    return {name: found for name, package in RUNTIMES.items() if (found := installed(package))}


def installed(distribution: str) -> str:
    """Its version; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def model(root: Path = Path("/")) -> str:
    """The board's name in the device tree, else the computer's in DMI, else empty."""
    board = _read(root / "proc/device-tree/model")
    maker, product = (_read(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return board or " ".join(part for part in (maker, product) if part)


def cpu(root: Path = Path("/")) -> str:
    """The processor's name; on Arm, whose kernel gives none, the name of its cores."""
    fields = _fields(root / "proc/cpuinfo")
    core = (fields.get("CPU implementer", ""), fields.get("CPU part", ""))
    return fields.get("model name") or _ARM_CORES.get(core) or " ".join(core).strip()


def dtypes(root: Path = Path("/")) -> tuple[str, ...]:
    """What the CPU computes natively; ``f32`` always."""
    fields = _fields(root / "proc/cpuinfo")
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    return ("f32", *(dtype for dtype, any_of in _FLAGS.items() if flags & any_of))


def settings(root: Path = Path("/")) -> dict[str, str]:
    """What bears on speed and is not the hardware: kernel, governor, power mode, agent's Python."""
    cpus = root / "sys/devices/system/cpu"
    governors = {_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    found = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "governor": ", ".join(sorted(governors)),
        "turbo": _turbo(cpus),
        "platform_profile": _read(root / "sys/firmware/acpi/platform_profile"),
        "power_mode": _power_mode(root),
        "jetpack": _read(root / "etc/nv_tegra_release").split(", GCID")[0],
    }
    return {name: value for name, value in found.items() if value}


@lru_cache(maxsize=1)
def accelerators() -> dict[str, str]:
    """Name -> what it is, of the devices beside the CPU that the runtimes see; asked in processes that end at once.

    Loading a runtime takes memory and threads that an agent must not keep. Where one does not answer, it has none.
    """
    openvino = _run((sys.executable, "-I", "-c", _ASK_OPENVINO)) if "openvino" in runtimes() else ""
    nvidia = _run(("nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader"))
    found: dict[str, str] = json.loads(openvino.splitlines()[-1]) if openvino else {}
    for line in nvidia.splitlines():
        index, _, what = line.partition(", ")
        if index.isdigit():
            found[f"cuda:{index}"] = what
    return found


def _turbo(cpus: Path) -> str:
    """As the kernel's admin-guide has it: intel_pstate.rst (``no_turbo``) and cpufreq.rst (``boost``)."""
    inverse = {"0": "on", "1": "off"}.get(_read(cpus / "intel_pstate/no_turbo"), "")
    return inverse or {"1": "on", "0": "off"}.get(_read(cpus / "cpufreq/boost"), "")


def _power_mode(root: Path) -> str:
    """A Jetson's power mode, by ``nvpmodel -q``: its first line is ``NV Power Mode: 15W``."""
    if not (root / "etc/nvpmodel.conf").exists():
        return ""
    first = _run(("nvpmodel", "-q")).partition("\n")[0]
    return first.partition(":")[2].strip()


def _fields(path: Path) -> dict[str, str]:
    """The first value of each ``name: value``; of /proc/cpuinfo, that is the first processor's."""
    fields: dict[str, str] = {}
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _read(path: Path) -> str:
    return text(path).strip("\0\n\t ")


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
