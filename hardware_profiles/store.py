"""A content-addressed store of files: the host's stage artifacts. An agent's blobs: `hardware_profiles.agent.blobs`.

``blobs/ab/<sha256>`` holds each distinct file once, read-only; ``entries/<key>.json`` says which files an artifact has.
An entry is written last and by rename, so a process killed at any moment leaves either a whole artifact or none.

Damage: the content of a blob is compared with its name when an artifact is asked for, once in each process for as long
as inode, size and modification time stay as they are (the change time is no help: every hard link changes it). A
damaged or missing file makes its artifact count as absent, and the remains are unlinked, so that it is built again.
Processes that read a removed file read on; its hard links keep the damaged bytes, and a bundle that is one notices by
the digests in its manifest.

Several processes: ``lock`` is held shared while an artifact is looked up or taken in, and alone while something is
removed. ``locks/<key>`` is held by the process that builds an artifact; ``tmp/<name>.lock`` by the owner of the scratch
folder beside it, which is swept when nobody holds that lock. What is removed when the store grows over its limit:
`hardware_profiles.eviction`.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TextIO

from hardware_profiles.entry import Entry as Entry  # part of what a store says
from hardware_profiles.entry import read_entry
from hardware_profiles.held import is_held, locked, remove
from spaces.canonical import file_digest

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""What the system says of a disk that is full, over its quota, broken, or has become read-only."""

_READ_ONLY = 0o444
_VERIFIED: dict[Path, tuple[int, int, int]] = {}


class Gone(Exception):
    """An artifact went away, or was found damaged, while it was needed: what hangs on it has to be built again."""


class Store:
    """A store in one folder, which several processes may use at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs", "entries", "locks", "tmp", "leases", "pins"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Entry | None:
        """The entry for a key, which counts as a use of it; null if there is none or a file of it is not as it was.

        The remains of a damaged one are removed.
        """
        with self.lock(exclusive=False):
            path = self.entry_path(key)
            if not path.exists():
                return None
            entry = read_entry(path)
            if entry is not None and all(self._is_whole(sha, entry.sizes[name]) for name, sha in entry.files.items()):
                with suppress(OSError):
                    os.utime(path)
                return entry
        self.discard(key)
        return None

    def discard(self, key: str, *, distrust: bool = False) -> None:
        """Remove an artifact that is damaged, with those of its files that are; a whole one stays.

        ``distrust``: read its files again, whatever was found of them before.
        """
        with self.lock(exclusive=True):
            path = self.entry_path(key)
            entry = read_entry(path) if path.exists() else None
            damaged = []
            for name, sha in entry.files.items() if entry else ():
                if distrust:
                    _VERIFIED.pop(self.blob_path(sha), None)
                if not self._is_whole(sha, entry.sizes[name] if entry else 0):
                    damaged.append(self.blob_path(sha))
            if entry is None or damaged:
                remove(path)
            for blob in damaged:
                remove(blob if blob.parent.is_dir() else blob.parent)

    def put(self, key: str, folder: Path, *, stage: str, seconds: float, checks: Mapping[str, Any]) -> Entry:
        """Take over the files of ``folder`` as the artifact ``key``; the folder is empty of files afterwards."""
        files, sizes = {}, {}
        with self.lock(exclusive=False):
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    sizes[name] = path.stat().st_size
                    files[name] = self._take(path)
            entry = Entry(
                key=key, stage=stage, files=files, sizes=sizes, seconds=seconds, checks=checks, created=time.time()
            )
            write_atomic(self.entry_path(key), json.dumps(asdict(entry), indent=1))
        return entry

    def checkout(self, entry: Entry, target: Path) -> None:
        """Lay out an artifact's files in ``target`` as hard links; as copies where the file system has no such links.

        The links share their bytes with the store: write a new file rather than into one of them.

        Raises:
            Gone: a file went away since the entry was read.
        """
        for name, sha in entry.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                try:
                    path.hardlink_to(self.blob_path(sha))
                except OSError as error:
                    if isinstance(error, FileNotFoundError) or error.errno in DISK_ERRORS:
                        raise
                    shutil.copyfile(self.blob_path(sha), path)
            except FileNotFoundError:
                raise Gone(f"the artifact {entry.key} of the stage {entry.stage} went away") from None

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Hold the right to build ``key``: a second process that wants the same artifact waits here."""
        with locked(self.root / "locks" / key, exclusive=True):
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the store's file system, gone afterwards; those of dead processes are swept first."""
        with suppress(BlockingIOError), self.lock(exclusive=True, wait=False):
            self.sweep()
        with self.lock(exclusive=False):
            folder = Path(mkdtemp(dir=self.root / "tmp"))
            mark = folder.with_name(f"{folder.name}.lock")
            stream = mark.open("w")
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            mark.unlink(missing_ok=True)
            stream.close()

    def sweep(self) -> None:
        """Remove what killed processes left in ``tmp``. The caller holds the store's lock alone."""
        for left in (self.root / "tmp").iterdir():
            if left.suffix == ".lock":
                if not left.with_suffix("").exists() and not is_held(left):
                    remove(left)
            elif not is_held(left.with_name(f"{left.name}.lock")):
                remove(left)
                remove(left.with_name(f"{left.name}.lock"))

    def lock(self, *, exclusive: bool, wait: bool = True) -> AbstractContextManager[TextIO]:
        """The store's own lock, as in `hardware_profiles.held.locked`."""
        return locked(self.root / "lock", exclusive=exclusive, wait=wait)

    def entry_path(self, key: str) -> Path:
        return self.root / "entries" / f"{key}.json"

    def blob_path(self, sha: str) -> Path:
        return self.root / "blobs" / sha[:2] / sha

    def _is_whole(self, sha: str, size: int) -> bool:
        """Whether a blob is there and has the content that its name says."""
        blob = self.blob_path(sha)
        try:
            found = blob.lstat()
            if not stat.S_ISREG(found.st_mode):
                return False
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if _VERIFIED.get(blob) != state:
                if found.st_size != size or file_digest(blob) != sha:
                    return False
                _VERIFIED[blob] = state
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return found.st_size == size

    def _take(self, path: Path) -> str:
        sha, size = file_digest(path), path.stat().st_size
        blob = self.blob_path(sha)
        if self._is_whole(sha, size):
            path.unlink()
            return sha
        if path.is_symlink() or path.stat().st_nlink > 1:
            own = path.with_name(path.name + ".own")
            shutil.copyfile(path, own)
            own.replace(path)
            sha = file_digest(path)
            blob = self.blob_path(sha)
        if blob.is_dir():
            remove(blob)
        if not blob.parent.is_dir():
            remove(blob.parent)
            blob.parent.mkdir(exist_ok=True)
            sync_folder(blob.parent.parent)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.chmod(_READ_ONLY)
        state = path.stat()
        path.replace(blob)
        sync_folder(blob.parent)
        _VERIFIED[blob] = (state.st_ino, state.st_size, state.st_mtime_ns)
        return sha


def write_atomic(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text file so that a kill at any moment leaves the old content or the new: write, fsync, rename, fsync.

    ``mode``: its permissions, less the process's umask; 0o600 is for its owner alone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", opener=partial(os.open, mode=mode)) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append to a file and make it durable; where that fails, the file is as long as before.

    Raises:
        OSError: naming the file.
    """
    try:
        with path.open("ab", buffering=0) as stream:
            length = stream.seek(0, os.SEEK_END)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                os.ftruncate(stream.fileno(), length)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
