"""The agent's files by content: ``blobs/<sha256>`` is whole and read-only, ``blobs/<sha256>.part`` still grows.

A digest is the only name that reaches the file system. Bytes are appended where the writer says that the file ends, or
refused: so two connections that send the same blob, one of them perhaps long dead, cannot spoil it. Parts are not
fsynced before they are whole: what a power failure does to them is found by the digest, and sent again.

Not a `hardware_profiles.store.Store`: that one takes whole artifacts in, of files that go by name, and several
processes share it. Here one process has the folder, bytes come in pieces over days, and room is promised before any do.

Whoever starts a blob says how long it will be, and that much is set aside until it is whole or the lease ends. Where
there is no room, blobs that no job needs go first, the one that was used longest ago before the others.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hardware_profiles.agent.exchange import Refused, refused
from hardware_profiles.store import sync_folder
from hardware_profiles.wire import OFFSET_HEADER
from spaces.canonical import file_digest

SPARE_BYTES = 64 << 20  # of the disk that blobs never take, so that journals and results always find room
FLUSH_BYTES = 32 << 20  # after which what was written goes to the disk, so that the last fsync is not the only one
_PART = ".part"
_READ_ONLY = 0o444
_CHUNK = 1 << 20
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")  # spaces.images.FORMATS
_SIGNATURE = 4  # bytes, of the longest of them


class _Part:
    """A blob that grows: where it ends, and the digest up to there. ``lock`` guards the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.offset = 0
        self.sha = hashlib.sha256()
        if path.exists():
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    self.sha.update(chunk)
                    self.offset += len(chunk)

    def write(self, content: bytes) -> None:
        """Append; where that fails, the file is as long as before."""
        with self.path.open("ab", buffering=0) as stream:
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[stream.write(rest) :]
                if (self.offset + len(content)) // FLUSH_BYTES > self.offset // FLUSH_BYTES:
                    os.fdatasync(stream.fileno())
            except OSError:
                os.ftruncate(stream.fileno(), self.offset)
                raise
        self.sha.update(content)
        self.offset += len(content)


class Blobs:
    """The blobs in one folder. Every method may be called from any thread, and blocks."""

    def __init__(self, root: Path, *, limit_bytes: int, needed: Callable[[], Collection[str]]) -> None:
        """``needed`` names the blobs that jobs hold on to; ``limit_bytes`` is for all blobs together."""
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._limit = limit_bytes
        self._needed = needed
        self._parts: dict[str, _Part] = {}
        self._announced: dict[str, int] = {}  # how long each that grows under the current lease will be
        self._lock = threading.Lock()

    def path(self, sha: str) -> Path:
        """Where a whole blob is; ``sha`` is 64 hexadecimal digits."""
        return self._root / sha

    def size(self, sha: str) -> int | None:
        """Bytes of a whole blob, which counts as a use of it; null if there is none."""
        try:
            os.utime(self.path(sha))
            return self.path(sha).stat().st_size
        except FileNotFoundError:
            return None

    def offset(self, sha: str) -> int:
        """Where a blob that is not whole yet ends."""
        try:
            return self._part_path(sha).stat().st_size
        except FileNotFoundError:
            return 0

    def begin(self, sha: str, offset: int, count: int, length: int) -> None:
        """Set room aside before ``count`` bytes are appended at ``offset`` to a blob of ``length`` bytes.

        Raises:
            Refused: the blob does not end at ``offset``, would become longer than ``length``, or there is no room. In
                each case nothing was written.
        """
        with self._part(sha) as part:
            self._expect(sha, part, offset)
            if offset + count > length:
                raise refused(413, "OVER_LENGTH", f"{offset} and {count} bytes are more than {length}.")
            with self._lock:
                if self._announced.get(sha) != length:
                    self._make_room(sha, length - offset)
                    self._announced[sha] = length

    def append(self, sha: str, offset: int, content: bytes) -> int:
        """Append what came for ``offset``; where the blob ends now.

        Raises:
            Refused: the blob does not end there any more, would become longer than was announced, or the disk is full.
        """
        with self._part(sha) as part:
            self._expect(sha, part, offset)
            length = self._announced.get(sha)
            if length is None:
                raise refused(409, "STALE_EPOCH", "the lease ended while the blob came; take a lease.")
            if offset + len(content) > length:
                raise refused(413, "OVER_LENGTH", f"more than the {length} bytes came that were announced.")
            try:
                part.write(content)
            except OSError as error:
                raise refused(507, "NO_SPACE", f"the device cannot write the blob ({error.strerror}).") from None
            return part.offset

    def finish(self, sha: str) -> bool:
        """Make a blob whole and durable; false if it was.

        Raises:
            Refused: bytes are still missing; or they have another digest, and are discarded.
        """
        if self.size(sha) is not None:
            return False
        with self._part(sha) as part:
            if part.offset < self._announced.get(sha, 0):
                raise self._ends_at(part.offset)
            if part.sha.hexdigest() != sha:
                self._forget(sha)
                part.path.unlink(missing_ok=True)
                raise refused(422, "DIGEST_MISMATCH", f"the {part.offset} bytes that came have another digest.")
            with part.path.open("ab") as stream:
                os.fsync(stream.fileno())
            part.path.replace(self.path(sha))
            self.path(sha).chmod(_READ_ONLY)
            self._forget(sha)
        sync_folder(self._root)
        return True

    def remove(self, sha: str) -> bool:
        """Remove a whole blob; false if there was none. Files that are hard links of it stay."""
        try:
            self.path(sha).unlink()
        except FileNotFoundError:
            return False
        return True

    def discard_damaged(self, names: Iterable[str]) -> list[str]:
        """Remove the whole blobs that are not what their name says any more, as a worn memory card leaves them."""
        damaged = [sha for sha in sorted(names) if self.path(sha).exists() and file_digest(self.path(sha)) != sha]
        return [sha for sha in damaged if self.remove(sha)]

    def idle_images(self, before_ns: int) -> set[str]:
        """Blobs that are images by their first bytes, that no job needs, and that nobody used since (time.time_ns)."""
        with self._lock:
            whole = [name for used, name, _ in self._spare("") if not name.endswith(_PART) and used < before_ns]
        found = set()
        for name in whole:
            with suppress(FileNotFoundError), self.path(name).open("rb") as stream:
                if stream.read(_SIGNATURE).startswith(_IMAGES):
                    found.add(name)
        return found

    def release(self) -> None:
        """Give back the room that was set aside for blobs that are not whole; what came of them stays. Never blocks."""
        self._announced = {}

    def free_bytes(self) -> int:
        """What blobs may still take, once those that no job needs and nobody sends are gone."""
        with self._lock:
            spare = sum(size for _, _, size in self._spare(""))
            return max(0, self._room("") + spare)

    @contextmanager
    def _part(self, sha: str) -> Iterator[_Part]:
        """The part of a blob, held alone; one that another thread finished or released meanwhile is looked up anew."""
        while True:
            with self._lock:
                part = self._parts.get(sha)
            if part is None:
                made = _Part(self._part_path(sha))
                with self._lock:
                    part = self._parts.setdefault(sha, made)
            with part.lock:
                if self._parts.get(sha) is part:
                    if self.offset(sha) == part.offset:
                        yield part
                        return
                    with self._lock:
                        del self._parts[sha]

    def _expect(self, sha: str, part: _Part, offset: int) -> None:
        end = self.size(sha)
        end = part.offset if end is None else end
        if offset != end or end > part.offset:
            raise self._ends_at(end)

    def _ends_at(self, end: int) -> Refused:
        known = str(end)
        return refused(409, "WRONG_OFFSET", f"the blob ends at {known}.", (known,), {OFFSET_HEADER: known})

    def _forget(self, sha: str) -> None:
        with self._lock:
            self._parts.pop(sha, None)
            self._announced.pop(sha, None)

    def _make_room(self, sha: str, count: int) -> None:
        """Remove what no job needs and nobody sends, oldest first, until ``count`` bytes are free; nothing in vain."""
        room = self._room(sha)
        if room >= count:
            return
        spare = self._spare(sha)
        if room + sum(size for _, _, size in spare) < count:
            raise refused(507, "NO_SPACE", f"the device has no room for {count} more bytes.")
        for _, name, size in sorted(spare):
            if room >= count:
                break
            (self._root / name).unlink(missing_ok=True)
            room += size

    def _room(self, sha: str) -> int:
        """Bytes that are free, less those set aside for other blobs than this one."""
        others = [(name, length) for name, length in self._announced.items() if name != sha]
        apart = sum(max(0, length - self.offset(name)) for name, length in others)
        return min(self._disk_free(), self._limit - sum(size for _, _, size in self._files())) - apart

    def _spare(self, sha: str) -> list[tuple[int, str, int]]:
        kept = {*self._needed(), *self._announced, sha}
        return [one for one in self._files() if one[1].removesuffix(_PART) not in kept]

    def _files(self) -> list[tuple[int, str, int]]:
        """When each file was used last, its name and its size. Looked up for each blob that begins, so it is quick."""
        found = []
        with os.scandir(self._root) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found.append((state.st_mtime_ns, entry.name, state.st_size))
        return found

    def _disk_free(self) -> int:
        state = os.statvfs(self._root)
        return state.f_bavail * state.f_frsize - SPARE_BYTES

    def _part_path(self, sha: str) -> Path:
        return self._root / f"{sha}{_PART}"
