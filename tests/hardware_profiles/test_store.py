import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.entry import Entry
from hardware_profiles.store import Gone, Store
from spaces.canonical import file_digest


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WRONG: tuple[dict[str, Any], ...] = (
    {"seconds": float("nan")},
    {"seconds": float("inf")},
    {"seconds": 10**400},
    {"seconds": "1"},
    {"created": float("nan")},
    {"created": None},
    {"stage": 3},
    {"checks": []},
    {"checks": {"parity": float("nan")}},
)
NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".f")


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=20), min_size=1, max_size=5))
def test_what_is_put_comes_back(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("store")
    store = Store(root / "store")
    folder_of(root / "given", files)
    entry = store.put("key", root / "given", stage="test", seconds=1.5, checks={"parity": 32})
    assert store.get("key") == entry
    store.checkout(entry, root / "back")
    assert contents(root / "back") == files


def test_equal_files_are_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for key in ("one", "two"):
        store.put(
            key, folder_of(tmp_path / key, {"same": b"x" * 100, key: key.encode()}), stage="s", seconds=0, checks={}
        )
    assert sum(path.is_file() for path in (tmp_path / "store" / "blobs").rglob("*")) == 3


def test_a_blob_is_named_by_its_digest_and_read_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = store.put("k", folder_of(tmp_path / "a", {"f": b"data"}), stage="s", seconds=0, checks={})
    blob = next(path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file())
    assert blob.name == file_digest(blob) == entry.files["f"]
    assert blob.stat().st_mode & 0o222 == 0


def test_a_link_to_someone_elses_file_is_copied_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "users.bin").write_bytes(b"weights")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").hardlink_to(tmp_path / "users.bin")
    store.put("k", tmp_path / "a", stage="s", seconds=0, checks={})
    (tmp_path / "users.bin").write_bytes(b"changed")
    entry = store.get("k")
    assert entry is not None
    store.checkout(entry, tmp_path / "back")
    assert (tmp_path / "back" / "f").read_bytes() == b"weights"


def test_a_damaged_entry_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put("k", folder_of(tmp_path / "a", {"f": b"data"}), stage="s", seconds=0, checks={})
    blob = next(path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"da")
    assert store.get("k") is None
    (tmp_path / "store" / "entries" / "k.json").write_text('{"key":')
    assert store.get("k") is None
    store.put("k", folder_of(tmp_path / "b", {"f": b"data"}), stage="s", seconds=0, checks={})
    entry = store.get("k")
    assert entry is not None
    store.checkout(entry, tmp_path / "back")
    assert contents(tmp_path / "back") == {"f": b"data"}


def _put_forever(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    store = Store(root / "store")
    number = 0
    while True:
        folder = folder_of(root / "work" / str(number), {"f": os.urandom(20_000), "g": str(number).encode()})
        store.put(f"key{number}", folder, stage="s", seconds=0, checks={})
        ready.set()
        number += 1


def test_a_process_killed_while_it_stores_leaves_whole_entries_only(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(10):
        root = tmp_path / str(attempt)
        ready = context.Event()
        process = context.Process(target=_put_forever, args=(root, ready))
        process.start()
        assert ready.wait(20)
        time.sleep(0.002 * attempt)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store = Store(root / "store")
        keys = [path.stem for path in (root / "store" / "entries").glob("key*.json")]
        assert keys
        for key in keys:
            entry = store.get(key)
            assert entry is not None
            store.checkout(entry, root / "back" / key)
            for name, sha in entry.files.items():
                assert file_digest(root / "back" / key / name) == sha


def test_scratch_of_a_dead_process_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    left = tmp_path / "store" / "tmp" / "999999999-1"
    left.mkdir()
    with store.scratch() as folder:
        assert folder.is_dir()
        assert not left.exists()
    assert not folder.exists()


def stored(store: Store, root: Path, key: str, files: dict[str, bytes]) -> Entry:
    return store.put(key, folder_of(root / f"given-{key}", files), stage="s", seconds=1, checks={})


@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_file_is_found_removed_and_built_again(tmp_path: Path, same_size: bool) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "k", {"f": b"data", "g": b"other"})
    store.checkout(entry, tmp_path / "bundle")
    blob = store.blob_path(entry.files["f"])
    with (tmp_path / "bundle" / "g").open("rb") as reader:
        blob.chmod(0o644)
        blob.write_bytes(b"dxta" if same_size else b"d")
        assert store.get("k") is None
        assert reader.read() == b"other"
    assert not blob.exists()
    assert not store.entry_path("k").exists()
    assert (tmp_path / "bundle" / "f").read_bytes() != b"data"  # the link has the damaged bytes: its owner must notice
    again = stored(store, tmp_path, "k", {"f": b"data", "g": b"other"})
    assert store.get("k") == again
    store.checkout(again, tmp_path / "back")
    assert contents(tmp_path / "back") == {"f": b"data", "g": b"other"}


def test_damage_is_not_taken_for_the_file_that_is_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "one", {"f": b"data"})
    blob = store.blob_path(entry.files["f"])
    blob.chmod(0o644)
    blob.write_bytes(b"dxta")
    stored(store, tmp_path, "two", {"f": b"data"})
    assert file_digest(blob) == blob.name
    assert store.get("one") == entry


def test_damage_that_no_time_stamp_tells_is_found_on_distrust(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "k", {"f": b"data"})
    blob = store.blob_path(entry.files["f"])
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(b"dxta")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.get("k") == entry
    store.discard("k", distrust=True)
    assert store.get("k") is None
    assert not blob.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"key":',
        "\0\0\0",
        json.dumps({"key": "other", "stage": "s", "files": {}, "sizes": {}, "seconds": 1}),
        json.dumps({"key": "k", "stage": "s", "files": {"../../f": "0" * 64}, "sizes": {"../../f": 1}, "seconds": 1}),
        json.dumps({"key": "k", "stage": "s", "files": {"f": "../../../f"}, "sizes": {"f": 1}, "seconds": 1}),
        json.dumps({"key": "k", "stage": "s", "files": {"f": "0" * 64}, "sizes": {}, "seconds": 1}),
        json.dumps({"key": "k", "stage": "s", "files": 3, "sizes": 3, "seconds": 1}),
        *(json.dumps({"key": "k", "stage": "s", "files": {}, "sizes": {}, "seconds": 1} | wrong) for wrong in WRONG),
    ],
)
def test_a_damaged_entry_is_removed(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "store")
    store.entry_path("k").write_text(text)
    assert store.get("k") is None
    assert not store.entry_path("k").exists()


def folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "f").write_bytes(b"x")


@pytest.mark.parametrize(
    "replace", [folder_with_a_file, os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("x")]
)
@pytest.mark.parametrize("part", ["blob", "folder", "entry"])
def test_what_is_no_plain_file_is_built_again(tmp_path: Path, part: str, replace: Callable[[Path], None]) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "k", {"f": b"data"})
    blob = store.blob_path(entry.files["f"])
    place = {"blob": blob, "folder": blob.parent, "entry": store.entry_path("k")}[part]
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    replace(place)
    assert store.get("k") is None
    again = stored(store, tmp_path, "k", {"f": b"data"})
    assert store.get("k") == again
    assert blob.read_bytes() == b"data"


def test_a_file_is_taken_in_over_what_is_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.blob_path(stored(store, tmp_path, "one", {"f": b"data"}).files["f"])
    blob.unlink()
    folder_with_a_file(blob)
    entry = stored(store, tmp_path, "two", {"f": b"data"})
    assert store.get("two") == entry


def test_a_file_is_read_once_however_often_it_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "k", {"f": b"data"})
    read: list[Path] = []
    monkeypatch.setattr("hardware_profiles.store._VERIFIED", {})

    def counted(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr("hardware_profiles.store.file_digest", counted)
    for number in range(3):
        assert Store(tmp_path / "store").get("k") == entry
        store.checkout(entry, tmp_path / str(number))
    assert read == [store.blob_path(entry.files["f"])]


def test_a_file_that_went_away_under_an_entry_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, tmp_path, "k", {"f": b"data"})
    store.blob_path(entry.files["f"]).unlink()
    with pytest.raises(Gone):
        store.checkout(entry, tmp_path / "back")


def test_scratch_of_a_live_process_of_another_container_stays(tmp_path: Path) -> None:
    """Process ids mean nothing across containers: the owner is known by the lock that it holds."""
    store = Store(tmp_path / "store")
    ready, go = multiprocessing.get_context("fork").Event(), multiprocessing.get_context("fork").Event()
    process = multiprocessing.get_context("fork").Process(target=_hold_scratch, args=(store, ready, go))
    process.start()
    assert ready.wait(20)
    held = [path for path in (tmp_path / "store" / "tmp").iterdir() if path.is_dir()]
    with store.scratch():
        assert held[0].is_dir()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with store.scratch():
        assert not held[0].exists()
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def _hold_scratch(store: Store, ready: Any, go: Any) -> None:
    with store.scratch():
        ready.set()
        go.wait(60)
