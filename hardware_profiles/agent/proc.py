"""What Linux says of processes and of memory in /proc, see proc(5). Nothing is estimated."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hardware_profiles.agent.files import text

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
BUSY = 0.05  # of what the busiest thread ran
_KIB = 1024

Scheduled: TypeAlias = Mapping[int, tuple[float, float]]
"""Thread -> the seconds that it ran, and that it was ready to run but had no processor."""


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


def scheduled_s(pids: Iterable[int], proc: Path = PROC) -> Scheduled:
    """Seconds that each thread of these processes ran, and that it was ready to run but had no processor.

    The first two fields of a thread's ``schedstat``, in nanoseconds, see the kernel's scheduler/sched-stats.rst; to the
    second belongs what a quota of a control group holds back. Empty where the kernel does not say.
    """
    files = [file for pid in pids for file in (proc / str(pid)).glob("task/*/schedstat")]
    fields = {int(file.parent.name): text(file).split() for file in files}
    return {thread: (int(one[0]) * 1e-9, int(one[1]) * 1e-9) for thread, one in fields.items() if len(one) == 3}


def at_work(before: Scheduled, after: Scheduled) -> tuple[float, float]:
    """Seconds that threads ran and waited for a processor between two `scheduled_s`, those that worked alone.

    Threads that ran for less than ``BUSY`` of what the busiest did are left out: nobody waits for them.
    """
    spent = []
    for thread, (ran_s, waited_s) in after.items():
        ran_before_s, waited_before_s = before.get(thread, (0.0, 0.0))
        spent.append((ran_s - ran_before_s, waited_s - waited_before_s))
    busiest = max((ran_s for ran_s, _ in spent), default=0.0)
    worked = [one for one in spent if one[0] >= BUSY * busiest]
    return sum(ran_s for ran_s, _ in worked), sum(waited_s for _, waited_s in worked)


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
