"""What Linux says of a process and its machine. Nothing is estimated: where there is no reading, there is a reason."""

import os
from pathlib import Path

_KIB = 1024


def memory_peak_bytes(pid: int | None = None) -> int:
    """The most resident memory that a process ever had (VmHWM)."""
    return _status_bytes("VmHWM", pid)


def memory_now_bytes(pid: int | None = None) -> int:
    """The resident memory of a process (VmRSS)."""
    return _status_bytes("VmRSS", pid)


def memory_total_bytes() -> int:
    """The machine's memory (MemTotal)."""
    return _field_bytes(Path("/proc/meminfo"), "MemTotal")


def memory_available_bytes() -> int:
    """What new work can take without swapping (MemAvailable)."""
    return _field_bytes(Path("/proc/meminfo"), "MemAvailable")


def oom_kills() -> int:
    """How many processes the kernel has killed for memory so far: in this control group, else on the machine."""
    for path in (_cgroup() / "memory.events", Path("/proc/vmstat")):
        try:
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except OSError:
            continue
    return 0


def _status_bytes(field: str, pid: int | None) -> int:
    return _field_bytes(Path(f"/proc/{os.getpid() if pid is None else pid}/status"), field)


def _field_bytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    raise ValueError(f"{path} has no field {field}")


def _cgroup() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return Path("/sys/fs/cgroup")
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return Path("/sys/fs/cgroup") / inside.lstrip("/")
