"""What an agent does now, for its owner: read from its folder, so that no measurement is disturbed by the question."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.agent.facts import installed, runtimes
from hardware_profiles.agent.identity import Paired
from hardware_profiles.agent.jobs import read_journal
from hardware_profiles.agent.orphans import FILE as RUNNER
from hardware_profiles.held import is_held
from hardware_profiles.store import write_atomic

LOCK = "lock"  # held by the agent that serves the folder
LINE = "line.json"


@dataclass(frozen=True, kw_only=True)
class Status:
    """One look at an agent. Hosts go by the names under which they were paired.

    Attributes:
        agent: version of vlmfront; ``runtimes``: name -> version.
        address: where it listens, or did last; empty where it never did.
        holder: who holds the device; null where nobody does. ``waiting``: who is next, in order.
        running: the job whose runner works now; null where none does. ``queued`` jobs follow it.
        kept: results that their hosts have not acknowledged.
        blobs_bytes, free_bytes: what blobs take, and what is free on their disk.
    """

    serving: bool
    address: str
    agent: str
    runtimes: Mapping[str, str]
    paired: tuple[str, ...]
    holder: str | None
    waiting: tuple[str, ...]
    running: str | None
    queued: int
    kept: int
    blobs_bytes: int
    free_bytes: int


def note_line(state: Path, peers: Sequence[str]) -> None:
    """Write down who holds the device and who waits for it. A disk that is full costs the owner no more than this."""
    with suppress(OSError):
        write_atomic(state / LINE, json.dumps(peers))


def status(state: Path) -> Status:
    """Look at the folder of an agent, whether or not it is serving.

    Raises:
        BadInput: a paired host's file is damaged.
    """
    serving = is_held(state / LOCK)
    names = {peer: host.name for peer, host in Paired(state).hosts().items()}
    at, line = (_json(state / name) for name in ("address", LINE))
    hosts = [names.get(peer, "an unpaired host") for peer in line or ()] if serving else []
    jobs = read_journal(state / "journal.jsonl", lambda _event, _detail: None).jobs.values()
    open_ = [one.uuid for one in jobs if not one.over] if serving else []
    running = open_[0] if open_ and (state / RUNNER).exists() else None
    blobs = state / "blobs"
    return Status(
        serving=serving,
        address=f"{at['host']}:{at['port']}" if at else "",
        agent=installed("vlmfront"),
        runtimes=runtimes(),
        paired=tuple(names.values()),
        holder=hosts[0] if hosts else None,
        waiting=tuple(hosts[1:]),
        running=running,
        queued=len(open_) - (running is not None),
        kept=sum(one.over for one in jobs),
        blobs_bytes=sum(path.stat().st_size for path in blobs.iterdir()) if blobs.is_dir() else 0,
        free_bytes=shutil.disk_usage(state).free,
    )


def in_words(found: Status) -> str:
    """A look for people, a line for each thing."""
    rows = {
        "agent": f"vlmfront {found.agent}, {'serving' if found.serving else 'not serving'} {found.address}".rstrip(),
        "runtimes": ", ".join(f"{name} {number}" for name, number in found.runtimes.items()) or "none",
        "paired": ", ".join(found.paired) or "nobody: vlmfront-agent pair",
        "lease": f"held by {found.holder}" if found.holder else "free",
        "queue": ", ".join(found.waiting) or "nobody waits",
        "job": f"{found.running or 'none runs'}; {found.queued} queued, {found.kept} kept until their hosts have them",
        "disk": f"blobs take {found.blobs_bytes / 1e9:.2f} GB, {found.free_bytes / 1e9:.1f} GB are free",
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())


def _json(path: Path) -> Any:
    """What a file of the agent's own holds; null where there is none, or none that can be read."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_bytes())
    return None
