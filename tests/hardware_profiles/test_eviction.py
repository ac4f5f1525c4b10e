import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.eviction import evict, lease, pin, pins
from hardware_profiles.store import Store
from spaces.canonical import file_digest


def stored(store: Store, key: str, files: Mapping[str, bytes], used_s: int) -> None:
    """Put an artifact that was last used ``used_s`` seconds after the epoch."""
    given = store.root.parent / "given" / key
    given.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (given / name).write_bytes(content)
    store.put(key, given, stage="s", seconds=0, checks={})
    os.utime(store.entry_path(key), (used_s, used_s))


def keys(store: Store) -> set[str]:
    return {path.stem for path in (store.root / "entries").glob("*.json")}


def size(store: Store) -> int:
    return sum(path.stat().st_size for path in (store.root / "blobs").glob("*/*"))


def run_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    return path


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "files": st.frozensets(st.integers(0, 7), min_size=1, max_size=4),
            "used": st.integers(0, 50),
            "pinned": st.booleans(),
        }
    ),
    max_size=7,
)


@settings(max_examples=40, deadline=None)
@given(entries=ENTRIES, linked=st.frozensets(st.integers(0, 7)), limit=st.integers(0, 60))
def test_what_goes_is_what_the_rules_say(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], linked: frozenset[int], limit: int
) -> None:
    root = tmp_path_factory.mktemp("evict")
    store = Store(root / "store")
    run = run_folder(root / "run")
    weight = {number: 3 + number for number in range(8)}
    for place, entry in enumerate(entries):
        stored(store, f"k{place}", {f"f{n}": bytes([n]) * weight[n] for n in entry["files"]}, entry["used"])
    present = {number for entry in entries for number in entry["files"]}
    for path in list((store.root / "blobs").glob("*/*")):
        if path.read_bytes()[0] in linked:
            os.link(path, root / f"bundle-{path.name}")
    pin(store, run, {f"k{place}" for place, entry in enumerate(entries) if entry["pinned"]}, ())
    alive = {f"k{place}": entry for place, entry in enumerate(entries)}
    excess = sum(weight[number] for number in present) - limit
    freed = 0
    while freed < excess:
        may = [
            (entry["used"], key) for key, entry in alive.items() if not entry["pinned"] and not entry["files"] <= linked
        ]
        if not may:
            break
        gone = alive.pop(min(may)[1])["files"] - {n for entry in alive.values() for n in entry["files"]}
        freed += sum(weight[number] for number in gone - linked)
    room = evict(store, limit)
    assert keys(store) == set(alive)
    assert room.freed == freed
    assert room.over == max(0, excess - freed)
    assert set(room.evicted) == {f"k{place}" for place in range(len(entries))} - set(alive)
    for key in alive:
        assert store.get(key) is not None
    assert size(store) == sum(weight[number] for number in {n for entry in alive.values() for n in entry["files"]})


def test_a_use_makes_an_artifact_the_last_to_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for place in range(3):
        stored(store, f"k{place}", {"f": bytes([place]) * 10}, 100 + place)
    assert store.get("k0") is not None
    evict(store, 15)
    assert keys(store) == {"k0"}


def test_what_a_live_run_used_or_needs_stays_until_it_dies(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for place in range(4):
        stored(store, f"k{place}", {"f": bytes([place]) * 10}, 100 + place)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold_lease, args=(store, ["k1"], ready))
    process.start()
    assert ready.wait(20)
    assert store.get("k2") is not None
    room = evict(store, 0)
    assert keys(store) == {"k1", "k2"}
    assert room.over == 20
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    evict(store, 0)
    assert keys(store) == set()
    assert list((tmp_path / "store" / "leases").iterdir()) == []


def _hold_lease(store: Store, needed: list[str], ready: Any) -> None:
    with lease(store) as claim:
        claim.need(needed)
        ready.set()
        time.sleep(60)


def test_pins_count_while_their_run_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for place in range(2):
        stored(store, f"k{place}", {"f": bytes([place]) * 10}, 100 + place)
    run = run_folder(tmp_path / "run")
    pin(store, run, ["k0"], [3])
    evict(store, 0)
    assert keys(store) == {"k0"}
    assert [one.bundles for one in pins(store)] == [{3}]
    (run / "run.json").unlink()
    evict(store, 0)
    assert keys(store) == set()
    assert list((tmp_path / "store" / "pins").iterdir()) == []


def test_remains_of_killed_processes_go_in_any_case(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    stored(store, "k", {"f": b"data"}, 100)
    orphan = store.blob_path("0" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"half")
    half = tmp_path / "store" / "entries" / ".k2.json.1-1.tmp"
    half.write_text("{")
    room = evict(store, 100)
    assert not orphan.exists()
    assert not half.exists()
    assert keys(store) == {"k"}
    assert room.evicted == ()


@pytest.mark.parametrize(
    "name", ["entries/d.json", "blobs/ab/d", "blobs/ab", "pins/d.json", "tmp/d.lock", "leases/d.lock"]
)
@pytest.mark.parametrize("make", [lambda path: (path / "f").mkdir(parents=True), os.mkfifo])
def test_what_is_no_file_does_not_stop_it(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    store = Store(tmp_path / "store")
    stored(store, "k", {"f": b"data"}, 100)
    (store.root / name).parent.mkdir(exist_ok=True)
    make(store.root / name)
    assert evict(store, 0).evicted == ("k",)


def test_an_overlong_path_of_a_pin_is_ignored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    stored(store, "k", {"f": b"data"}, 100)
    content = {"run": "/" + "x" * 5000, "keys": ["k"], "bundles": []}
    (store.root / "pins" / "a.json").write_text(json.dumps(content))
    assert pins(store) == []
    assert evict(store, 0).evicted == ("k",)


@pytest.mark.parametrize("text", ["{", "3", "[[1]]", "[" * 100_000])
def test_a_damaged_lease_names_no_keys_but_protects_what_was_used(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "store")
    for place in range(2):
        stored(store, f"k{place}", {"f": bytes([place]) * 10}, 100)
    with lease(store) as claim:
        claim.need(["k0"])
        next((store.root / "leases").glob("*.json")).write_text(text)
        assert store.get("k1") is not None
        assert evict(store, 0).evicted == ("k0",)


def _use(root: Path, seed: int, until: float, failures: Any) -> None:
    """Build, look up, check out and evict at random; whatever does not fit the contract goes into ``failures``."""
    rng, store, done = random.Random(seed), Store(root / "store"), 0
    with lease(store) if seed % 2 else _Nothing():
        while time.monotonic() < until:
            number = rng.randrange(12)
            key = f"key{number}"
            wanted = {"own": str(number).encode() * 400, "shared": str(number % 3).encode() * 900}
            if rng.random() < 0.15:
                evict(store, rng.choice([0, 2000, 9000]))
                continue
            with store.building(key):
                entry = store.get(key)
                if entry is None:
                    with store.scratch() as folder:
                        for name, content in wanted.items():
                            (folder / name).write_bytes(content)
                        entry = store.put(key, folder, stage="s", seconds=0, checks={})
            target = root / "out" / f"{seed}-{done}"
            try:
                store.checkout(entry, target)
            except Exception as error:
                if seed % 2 or type(error).__name__ != "Gone":  # whoever holds a lease never loses what it just used
                    failures.put(f"{seed}: {key}: {error!r}")
            else:
                found = {path.name: path.read_bytes() for path in target.iterdir()}
                if found != wanted:
                    failures.put(f"{seed}: {key}: other content")
            done += 1
    failures.put(done)


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_processes_that_build_get_and_evict_at_once_get_what_they_asked_for(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    until = time.monotonic() + 2.0
    processes = [context.Process(target=_use, args=(tmp_path, seed, until, failures)) for seed in range(4)]
    for process in processes:
        process.start()
    said = [failures.get(timeout=60)]
    while sum(isinstance(one, int) for one in said) < len(processes):
        said.append(failures.get(timeout=60))
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert [one for one in said if not isinstance(one, int)] == []
    assert sum(said) > 40
    store = Store(tmp_path / "store")
    for path in (tmp_path / "store" / "blobs").glob("*/*"):
        assert file_digest(path) == path.name
    for key in keys(store):
        entry = json.loads(store.entry_path(key).read_text())
        assert all(store.blob_path(sha).is_file() for sha in entry["files"].values())
    evict(store, 0)
    assert size(store) == 0 or all(path.stat().st_nlink > 1 for path in (tmp_path / "store" / "blobs").glob("*/*"))
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
