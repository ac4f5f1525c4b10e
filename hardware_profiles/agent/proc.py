"""What Linux says of processes and of memory in /proc, see proc(5). Nothing is estimated."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.agent.files import text

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Stat:
    """One process, by the fields of its ``stat``, see proc_pid_stat(5).

    Attributes:
        cpu_s: user and system time so far, and ``children_s`` of the children that it has waited for.
        started: ticks between the machine's start and its own.
    """

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    cpu_s: float
    children_s: float
    started: int

    @property
    def runs(self) -> bool:
        """Whether it has not ended; one that nobody has reaped has."""
        return self.state not in "ZX"


def stat(pid: int, proc: Path = PROC) -> Stat | None:
    """The process with this id; null if there is none."""
    name, _, rest = text(proc / str(pid) / "stat").partition("(")[2].rpartition(")")
    fields = rest.split()
    if len(fields) < 20:
        return None
    parent, group, session, user, system, children_user, children_system, started = (
        int(fields[place]) for place in (1, 2, 3, 11, 12, 13, 14, 19)
    )
    return Stat(
        pid=pid,
        name=name,
        state=fields[0],
        parent=parent,
        group=group,
        session=session,
        cpu_s=(user + system) * TICK_S,
        children_s=(children_user + children_system) * TICK_S,
        started=started,
    )


def processes(proc: Path = PROC) -> Iterator[Stat]:
    """Every process."""
    pids = (int(folder.name) for folder in proc.glob("[0-9]*") if folder.name.isdigit())
    return (found for pid in pids if (found := stat(pid, proc)))


def scheduled_s(pids: Iterable[int], proc: Path = PROC) -> tuple[float, float]:
    """Seconds that the threads of these processes ran, and that they were ready to run but had no processor.

    The first two fields of a thread's ``schedstat``, in nanoseconds, see the kernel's scheduler/sched-stats.rst; to the
    second belongs what a quota of a control group holds back. 0 where the kernel does not say.
    """
    files = [file for pid in pids for file in (proc / str(pid)).glob("task/*/schedstat")]
    fields = [line for file in files if len(line := text(file).split()) == 3]
    return sum(int(line[0]) for line in fields) * 1e-9, sum(int(line[1]) for line in fields) * 1e-9


def memory_peak_bytes(pid: int | None = None) -> int:
    """The most resident memory that a process ever had (VmHWM)."""
    return _status_bytes("VmHWM", pid)


def memory_now_bytes(pid: int | None = None) -> int:
    """The resident memory of a process (VmRSS)."""
    return _status_bytes("VmRSS", pid)


def memory_total_bytes(proc: Path = PROC) -> int:
    """The machine's memory (MemTotal)."""
    return _field_bytes(proc / "meminfo", "MemTotal")


def memory_available_bytes() -> int:
    """What new work can take without swapping (MemAvailable)."""
    return _field_bytes(PROC / "meminfo", "MemAvailable")


def oom_kills() -> int:
    """How many processes the kernel has killed for memory so far: in this control group, else on the machine."""
    for path in (_cgroup() / "memory.events", PROC / "vmstat"):
        for line in text(path).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _status_bytes(field: str, pid: int | None) -> int:
    return _field_bytes(PROC / str(os.getpid() if pid is None else pid) / "status", field)


def _field_bytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    raise ValueError(f"{path} has no field {field}")


def _cgroup() -> Path:
    lines = text(PROC / "self/cgroup").splitlines()
    inside = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return Path("/sys/fs/cgroup") / inside.lstrip("/")
