"""Runners that outlive their agent: ``runner.json`` in the state folder says which one the agent had started last.

A runner asks the kernel to end it together with the agent's thread that started it, but what it started itself does
not, and a runner that hangs before it asks does not either. Each has a session of its own, so a session is ended whole.
"""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from hardware_profiles.agent import proc
from hardware_profiles.messages import Unkillable
from hardware_profiles.store import write_atomic

FILE = "runner.json"
GONE_S = 5.0  # within which what was killed must be gone


def mark(state: Path, pid: int, boot_id: str) -> None:
    """Write down the runner that was just started; one that is gone already needs no mark."""
    runner = proc.stat(pid)
    if runner is not None:
        write_atomic(state / FILE, json.dumps({"pid": pid, "start": runner.started, "boot_id": boot_id}))


def unmark(state: Path) -> None:
    """No runner is left."""
    (state / FILE).unlink(missing_ok=True)


def end_orphans(state: Path, boot_id: str) -> bool:
    """Kill what is left of the marked runner's session; whether anything was.

    Its number is taken by nobody else as long as a process of the session lives. Where the runner is gone and another
    process has its number, or one of its session is older than it, the session is not the marked one, and is let be.

    Raises:
        Unkillable: a process outlived SIGKILL.
    """
    try:
        marked = json.loads((state / FILE).read_bytes())
        session, start = int(marked["pid"]), int(marked["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    found = _session(session) if marked.get("boot_id") == boot_id else []
    if any(one.started < start or (one.pid == session and one.started != start) for one in found):
        found = []
    end = time.monotonic() + GONE_S
    left = found
    while left and time.monotonic() < end:
        for one in left:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        time.sleep(0.01)
        left = _session(session)
    if left:
        raise Unkillable("CRASH", f"process {left[0].pid} of an earlier runner outlived SIGKILL")
    unmark(state)
    return bool(found)


def _session(session: int) -> list[proc.Stat]:
    return [one for one in proc.processes() if one.session == session and one.runs]
