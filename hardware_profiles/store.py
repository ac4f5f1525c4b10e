"""A content-addressed store of files: the host's stage artifacts and, later, an agent's blobs.

``blobs/ab/<sha256>`` holds each distinct file once, read-only; ``entries/<key>.json`` says which files an artifact has.
An entry is written last and by rename, so a process killed at any moment leaves either a whole artifact or none.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spaces.canonical import file_digest

_READ_ONLY = 0o444


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored artifact.

    Attributes:
        key: what it was asked for by; the digest of everything that went into it.
        stage: name of the stage that made it.
        files: relative path -> sha256 of its content.
        sizes: relative path -> bytes.
        seconds: what making it cost.
        checks: results of the gates it passed.
    """

    key: str
    stage: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    seconds: float
    checks: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0


class Store:
    """A store in one folder, which several processes may use at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs", "entries", "locks", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Entry | None:
        """The entry for a key; null if there is none or one of its files is missing or has another size."""
        try:
            entry = Entry(**json.loads((self.root / "entries" / f"{key}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        for path, sha in entry.files.items():
            blob = self._blob(sha)
            if not blob.is_file() or blob.stat().st_size != entry.sizes[path]:
                return None
        return entry

    def put(self, key: str, folder: Path, *, stage: str, seconds: float, checks: Mapping[str, Any]) -> Entry:
        """Take over the files of ``folder`` as the artifact ``key``; the folder is empty of files afterwards."""
        files, sizes = {}, {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                sizes[name] = path.stat().st_size
                files[name] = self._take(path)
        entry = Entry(
            key=key, stage=stage, files=files, sizes=sizes, seconds=seconds, checks=checks, created=time.time()
        )
        write_atomic(self.root / "entries" / f"{key}.json", json.dumps(asdict(entry), indent=1))
        return entry

    def checkout(self, entry: Entry, target: Path) -> None:
        """Lay out an artifact's files in ``target`` as hard links; as copies where the file system has no such links.

        The links share their bytes with the store: write a new file rather than into one of them.
        """
        for name, sha in entry.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.hardlink_to(self._blob(sha))
            except OSError:
                shutil.copyfile(self._blob(sha), path)

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Hold the right to build ``key``: a second process that wants the same artifact waits here."""
        with (self.root / "locks" / key).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the store's file system, gone afterwards; those of dead processes are swept first."""
        for left in (self.root / "tmp").iterdir():
            owner = left.name.split("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(left, ignore_errors=True)
        folder = self.root / "tmp" / f"{os.getpid()}-{time.monotonic_ns()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _blob(self, sha: str) -> Path:
        return self.root / "blobs" / sha[:2] / sha

    def _take(self, path: Path) -> str:
        sha = file_digest(path)
        blob = self._blob(sha)
        if blob.is_file() and blob.stat().st_size == path.stat().st_size:
            path.unlink()
            return sha
        blob.parent.mkdir(exist_ok=True)
        if path.stat().st_nlink > 1:
            own = path.with_name(path.name + ".own")
            shutil.copyfile(path, own)
            own.replace(path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.chmod(_READ_ONLY)
        path.replace(blob)
        sync_folder(blob.parent)
        return sha


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a kill at any moment leaves the old content or the new: write, fsync, rename, fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
