"""Replays of peers that were recorded once, so that a comparison needs none of their packages."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from replay.charging import Rule
from replay.header import FILE, TRIALS
from replay.table import ANSWERS
from spaces.errors import BadInput

FOLDER = "peers"


@dataclass(frozen=True)
class Run:
    """One replay of one engine, as far as a comparison asks.

    Attributes:
        engine: its name.
        rule: by which it was charged.
        seed: of the engine and of the order of items.
        table: the digest of the table's files.
        lock: the digest of the lock of the environment that it ran in; empty for the project's own.
        trials: how many trials it made.
        suggesting: CPU seconds of the engine's own.
        cap: seconds.
        changes: what it would have returned, and the seconds from which it would, whenever that changed.
    """

    engine: str
    rule: Rule
    seed: int
    table: str
    lock: str
    trials: int
    suggesting: float
    cap: float
    changes: list[tuple[float, list[int]]]


def digest(*paths: Path) -> str:
    """The SHA-256 of the files one after another; a file that is missing counts as empty."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes() if path.exists() else b"")
    return whole.hexdigest()


def table_digest(folder: Path) -> str:
    """The digest of what a replay reads of a table."""
    return digest(folder / FILE, folder / TRIALS, folder / ANSWERS)


def write(folder: Path, engine: str, runs: Iterable[Run]) -> None:
    """Records an engine's replays beside their table, in place of those recorded before."""
    lines = "".join(json.dumps(asdict(run)) + "\n" for run in runs)
    path = folder / FOLDER / f"{engine}.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


def read(folder: Path, engine: str) -> list[Run]:
    """The recorded replays of an engine; none where nothing was recorded.

    Raises:
        BadInput: for a file that is no such record, or one of another table.
    """
    path = folder / FOLDER / f"{engine}.jsonl.gz"
    if not path.exists():
        return []
    try:
        runs = [Run(**json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: is no record of replays ({error}); record it again with --rerun-peers") from error
    if any(run.table != table_digest(folder) for run in runs):
        raise BadInput(f"{path}: was recorded on another table; record it again with --rerun-peers")
    return runs
