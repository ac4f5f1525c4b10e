"""A snapshot of the machine: what is compared before and after a process's answers. Linux's /proc, see proc(5)."""

import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path, PurePath
from typing import Literal

from hardware_profiles.agent.files import text
from hardware_profiles.agent.proc import TICK_S, processes

_KTHREADD = 2
_INTERPRETER = re.compile(r"(?:python|pypy|perl|ruby|node|php|lua|bash|dash|zsh|sh)[0-9.]*")
_FLAGS = re.compile(r"-[bBdEiIOPqsSuvx]+")  # Python's options without a value
_MOST_NAMED = 60


@dataclass(frozen=True, kw_only=True)
class Task:
    """One process: when it started (ticks since boot), CPU time so far, what it is, and for whom it works.

    ``command``: program, and an interpreter's script. No other argument: it may be a password, and reports are shared.
    ``whose``: the ``runner``'s session; the ``agent`` itself and what started it; anybody else's.
    """

    started: int
    cpu_s: float
    command: str
    whose: Literal["runner", "agent", "other"] = "other"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The machine at one moment.

    Attributes:
        at_s: CLOCK_MONOTONIC, which every other time of ours is on too; it stops while the machine is suspended.
        asleep_s: CLOCK_BOOTTIME less CLOCK_MONOTONIC: for how long the machine was suspended since it started.
        wall_s: CLOCK_REALTIME less CLOCK_MONOTONIC. Both are slewed alike, so that only steps change it, as
            clock_gettime(2) says; and a suspend, which CLOCK_MONOTONIC does not count.
        swapped_in: pages read back from swap since boot (``pswpin``).
        processors: how many there are.
        busy_s: CPU time of all processors spent at work since boot, and stolen from a virtual machine.
        kernel_s: the share of kernel threads in it.
        tasks: every process but kernel threads, which work for whoever asks.
        accelerator: processes that have an accelerator open.
        counters: that only grow, such as a Jetson's ``oc1_event_cnt``.
    """

    at_s: float
    boot_id: str = ""
    asleep_s: float = 0.0
    wall_s: float = 0.0
    swapped_in: int = 0
    processors: int = 1
    busy_s: float = 0.0
    kernel_s: float = 0.0
    tasks: Mapping[int, Task] = field(default_factory=dict)
    accelerator: frozenset[int] = frozenset()
    counters: Mapping[str, int] = field(default_factory=dict)


def snapshot(
    root: Path, runner: int, *, counters: Mapping[str, int] | None = None, accelerator: frozenset[int] = frozenset()
) -> Snapshot:
    """The machine now. ``runner``: its process id, which is also its session; 0 where there is none yet.

    The agent's are this process, and the one that started it: the search that started its own agent.
    """
    tasks, kernel_s = _tasks(root / "proc", {os.getpid(), os.getppid()} - {0, 1}, runner)
    monotonic, asleep, wall = _clocks()
    stat = text(root / "proc/stat")
    return Snapshot(
        at_s=monotonic,
        boot_id=text(root / "proc/sys/kernel/random/boot_id").strip(),
        asleep_s=asleep,
        wall_s=wall,
        swapped_in=_swapped_in(text(root / "proc/vmstat")),
        processors=max(1, stat.count("\ncpu")),
        busy_s=_busy_s(stat),
        kernel_s=kernel_s,
        tasks=tasks,
        accelerator=accelerator,
        counters=counters or {},
    )


def _clocks() -> tuple[float, float, float]:
    """Monotonic, boot time and wall clock less monotonic: of three readings the tightest, lest we are preempted."""
    readings = []
    for _ in range(3):
        before = time.monotonic()
        boot, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        after = time.monotonic()
        readings.append((after - before, after, boot - after, wall - after))
    return min(readings)[1:]


def _tasks(proc: Path, ours: Collection[int], session: int) -> tuple[dict[int, Task], float]:
    """User processes by id, and the CPU time of kernel threads."""
    found, kernel_s = {}, 0.0
    for one in processes(proc):
        if _KTHREADD in (one.pid, one.parent):
            kernel_s += one.cpu_s
            continue
        command = program(text(proc / str(one.pid) / "cmdline").split("\0")) or one.name
        whose: Literal["runner", "agent", "other"] = "agent" if one.pid in ours else "other"
        if session > 0 and one.session == session:
            whose = "runner"
        # of the agent, with what it started and waited for, such as a board's own tool
        cpu_s = one.cpu_s + (one.children_s if one.pid in ours else 0.0)
        found[one.pid] = Task(started=one.started, cpu_s=cpu_s, command=command, whose=whose)
    return found, kernel_s


def program(arguments: list[str]) -> str:
    """What of a command line may be told to others: ``mysql``, ``python train.py``; empty where there is none.

    The first argument may be a title that a process gave itself, with all the rest in it. A script is only named where
    no option comes before it that could have a value.
    """
    name = PurePath((arguments[0].split() or [""])[0]).name[:_MOST_NAMED].rstrip(":")
    if not _INTERPRETER.fullmatch(name):
        return name
    rest = arguments[1:]
    if name.startswith(("python", "pypy")):
        rest = list(dropwhile(_FLAGS.fullmatch, rest))
    script = rest[0] if rest else ""
    return name if script.startswith(("-", "+")) else f"{name} {PurePath(script).name[:_MOST_NAMED]}".rstrip()


def _busy_s(stat: str) -> float:
    """user, nice, system and steal of the line ``cpu``; interrupts are not a process's, and guests are in user."""
    fields = stat.partition("\n")[0].split()[1:]
    if len(fields) < 8:
        return 0.0
    return sum(int(fields[place]) for place in (0, 1, 2, 7)) * TICK_S


def _swapped_in(vmstat: str) -> int:
    return next((int(line.split()[1]) for line in vmstat.splitlines() if line.startswith("pswpin ")), 0)
