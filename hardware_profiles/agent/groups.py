"""A control group of a runner's own: its memory limit, its peak, and whether the kernel killed for it. v2 or v1.

Files as in the kernel's documentation, admin-guide/cgroup-v2.rst, and admin-guide/cgroup-v1/{memory,pids}.rst.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hardware_profiles.agent.files import text

ROOT = Path("/sys/fs/cgroup")
MOST_TASKS = 1024  # processes and threads of a runner
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where groups can be made. ``folders``: the parents, that of the memory controller first."""

    version: int
    folders: tuple[Path, ...]


class Group:
    """One runner's group, made and limited when constructed; empty it before ``remove``."""

    def __init__(self, layout: Layout, limit_bytes: int) -> None:
        """Raises OSError where the kernel refuses."""
        self.limit_bytes = limit_bytes
        self._v2 = layout.version == 2
        name = f"vlmfront-{os.getpid()}-{next(_numbers)}"
        self.folders = tuple(parent / name for parent in layout.folders)
        try:
            for folder in self.folders:
                folder.mkdir()
            memory, tasks = self.folders[0], self.folders[-1]
            (memory / ("memory.max" if self._v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
            if self._v2:
                with contextlib.suppress(OSError):  # no swap controller: there is no swap to keep it from
                    (memory / "memory.swap.max").write_text("0")
            if (tasks / "pids.max").exists():
                (tasks / "pids.max").write_text(str(MOST_TASKS))
        except OSError:
            self.remove()
            raise

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that the group held, page cache included; null where the kernel does not say."""
        with contextlib.suppress(OSError, ValueError):
            name = "memory.peak" if self._v2 else "memory.max_usage_in_bytes"
            return int((self.folders[0] / name).read_text())
        return None

    @property
    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for memory."""
        lines = text(self.folders[0] / ("memory.events" if self._v2 else "memory.oom_control")).splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def remove(self) -> None:
        """Remove the group. What was killed takes a moment to leave it."""
        for folder in self.folders:
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break


@lru_cache(maxsize=1)
def find() -> tuple[Layout | None, str]:
    """Where groups below our own can be made; else null and why not. Leftovers of processes that are gone go."""
    reason = "there are no control groups"
    for layout in _candidates():
        try:
            Group(layout, 1 << 30).remove()
        except OSError as error:
            reason = f"no control group can be made ({error.strerror or error})"
            continue
        for leftover in itertools.chain.from_iterable(parent.glob("vlmfront-*-*") for parent in layout.folders):
            if not Path(f"/proc/{leftover.name.split('-')[1]}").exists():
                with contextlib.suppress(OSError):
                    leftover.rmdir()
        return layout, ""
    return None, reason


def make_room() -> None:
    """Let groups be made beside this process, where v2 has given it a group of its own: systemd's ``Delegate=yes``.

    v2 limits groups whose parent holds no process ("no internal processes", cgroup-v2.rst), so this one moves into a
    leaf first. A group that others are in as well is nobody's to change, and stays as it is.
    """
    inside = _inside()
    own = ROOT / inside.get("", "")
    if "memory" in inside or own == ROOT or text(own / "cgroup.procs").split() != [str(os.getpid())]:
        return
    with contextlib.suppress(OSError):
        leaf = own / "agent"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        for controller in ("memory", "pids"):
            if controller in text(own / "cgroup.controllers").split():
                (own / "cgroup.subtree_control").write_text(f"+{controller}")


def _inside() -> dict[str, str]:
    """Controller -> this process's group; that of v2 has no controller's name."""
    lines = [line.split(":", 2) for line in text(Path("/proc/self/cgroup")).splitlines()]
    return {controller: path.lstrip("/") for _, names, path in lines for controller in names.split(",")}


def _candidates() -> Iterator[Layout]:
    """v1 where it has the memory controller; v2 below our own group, then beside it, where processes may not be."""
    inside = _inside()
    if "memory" in inside:
        memory, pids = (ROOT / name / inside.get(name, "") for name in ("memory", "pids"))
        yield Layout(version=1, folders=(memory, pids) if "pids" in inside else (memory,))
    elif "" in inside:
        own = ROOT / inside[""]
        for parent in (own, own.parent) if own != ROOT else (own,):
            if "memory" in text(parent / "cgroup.subtree_control").split():
                yield Layout(version=2, folders=(parent,))
