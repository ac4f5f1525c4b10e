"""Keeps a store within its limit: the least recently used artifacts go, never one that a live run or a front needs.

The rules:

- An artifact was last used when it was put or got: the modification time of its entry.
- A live run holds a `Lease`. What was used since the oldest live lease began stays, as do the keys that leases name.
- A run's pins (`pin`) name the artifacts of its front. They stay for as long as the run's folder is there.
- Of the others the least recently used goes first, until what was freed brings the store within its limit.
- Bundles are hard links into the store. A file with links elsewhere frees nothing when it goes, so it is not counted as
  freed, and an artifact all of whose files have such links is left where it is.
- Where that is not enough, `search.room.make_room` drops the bundles of finished runs, all but those of the front and
  of the reference trial; their manifests stay, and lay them out again for as long as the store has their files.
- Files that no entry names are the remains of a killed process, and go in any case.

A store may stay above its limit: `Room.over` says by how many bytes.
"""

import errno
import fcntl
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp

from hardware_profiles.entry import Entry, read_entry
from hardware_profiles.held import is_held, remove
from hardware_profiles.store import Store, write_atomic
from spaces.canonical import digest

_NEVER = 1 << 63


@dataclass(frozen=True, kw_only=True)
class Room:
    """What `evict` did. ``freed`` and ``over`` are bytes: given back to the disk, and still above the limit."""

    evicted: tuple[str, ...]
    freed: int
    over: int


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What a run needs of the store. ``bundles``: the trials whose bundles are to stay in its folder."""

    run: Path
    keys: frozenset[str]
    bundles: frozenset[int]


class Lease:
    """A live run's claim on the store, in a file that is locked for as long as the process lives."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path

    def need(self, keys: Iterable[str]) -> None:
        """Have these artifacts stay, in place of those named before."""
        with self._store.lock(exclusive=False):
            write_atomic(self._path.with_suffix(".json"), json.dumps(sorted(set(keys))))


@contextmanager
def lease(store: Store) -> Iterator[Lease]:
    """Hold a lease on a store."""
    with store.lock(exclusive=False):
        descriptor, name = mkstemp(suffix=".lock", dir=store.root / "leases")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    path = Path(name)
    try:
        yield Lease(store, path)
    finally:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def pin(store: Store, run: Path, keys: Iterable[str], bundles: Iterable[int]) -> None:
    """Put on record what the front of a run needs, in place of what was there before."""
    content = {"run": str(run.resolve()), "keys": sorted(set(keys)), "bundles": sorted(set(bundles))}
    path = store.root / "pins" / f"{digest(content['run'])}.json"
    text = json.dumps(content)
    with store.lock(exclusive=False):
        if not path.is_file() or path.read_bytes() != text.encode():
            if path.is_dir():
                remove(path)
            write_atomic(path, text)


def pins(store: Store) -> list[Pin]:
    """The pins of the runs whose folders are there; those of others are removed."""
    found = []
    for path in filter(Path.is_file, sorted((store.root / "pins").glob("[0-9a-f]*.json"))):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            one = Pin(run=Path(content["run"]), keys=frozenset(content["keys"]), bundles=frozenset(content["bundles"]))
            there = (one.run / "run.json").is_file()
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            continue
        if there:
            found.append(one)
        else:
            path.unlink(missing_ok=True)
    return found


def evict(store: Store, limit: int) -> Room:
    """Bring the files of a store down to ``limit`` bytes, as far as the rules allow it."""
    with store.lock(exclusive=True):
        store.sweep()
        for half in store.root.glob("*/.*.tmp"):
            remove(half)
        entries = _entries(store)
        links, sizes = _blobs(store, entries.values())
        excess = sum(sizes.values()) - limit
        if excess <= 0:
            return Room(evicted=(), freed=0, over=0)
        since, needed = _leased(store)
        needed |= {key for one in pins(store) for key in one.keys}
        used = {key: store.entry_path(key).stat().st_mtime_ns for key in entries}
        references = Counter(sha for entry in entries.values() for sha in set(entry.files.values()))
        evicted, freed = [], 0
        for key in sorted(entries, key=lambda key: (used[key], key)):
            if freed >= excess:
                break
            files = set(entries[key].files.values())
            if key in needed or used[key] >= since or all(links.get(sha, 2) > 1 for sha in files):
                continue
            store.entry_path(key).unlink()
            evicted.append(key)
            references.subtract(files)
            for sha in files & sizes.keys():
                if not references[sha]:
                    store.blob_path(sha).unlink()
                    freed += sizes[sha] if links[sha] == 1 else 0
        return Room(evicted=tuple(evicted), freed=freed, over=max(0, excess - freed))


def _entries(store: Store) -> dict[str, Entry]:
    """Every readable entry by key; what is left of damaged or half-written ones is removed."""
    found = {}
    for path in (store.root / "entries").iterdir():
        entry = read_entry(path) if path.suffix == ".json" else None
        if entry is None:
            remove(path)
        else:
            found[entry.key] = entry
    return found


def _blobs(store: Store, entries: Iterable[Entry]) -> tuple[dict[str, int], dict[str, int]]:
    """Number of links and bytes of every file that an entry names; the others are removed."""
    named = {sha for entry in entries for sha in entry.files.values()}
    links, sizes = {}, {}
    for path in (store.root / "blobs").glob("*/*"):
        state = path.lstat()
        if path.name in named and stat.S_ISREG(state.st_mode):
            links[path.name], sizes[path.name] = state.st_nlink, state.st_size
        else:
            remove(path)
    return links, sizes


def _leased(store: Store) -> tuple[int, set[str]]:
    """When the oldest live lease began, in nanoseconds, and the keys that live ones name; dead ones are removed."""
    since, needed = _NEVER, set[str]()
    for path in (store.root / "leases").glob("*.lock"):
        named = path.with_suffix(".json")
        if not is_held(path):
            remove(named)
            remove(path)
            continue
        since = min(since, path.stat().st_mtime_ns)
        if named.is_file():
            with suppress(ValueError, TypeError, RecursionError):
                needed |= set(json.loads(named.read_text(encoding="utf-8")))
    return since, needed
