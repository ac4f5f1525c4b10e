import os
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware_profiles.agent.blobs import SPARE_BYTES, Blobs
from hardware_profiles.agent.exchange import Refused
from tests.hardware_profiles.agent.conftest import sha256


def store(folder: Path, limit_bytes: int = 1 << 20, needed: Iterable[str] = ()) -> Blobs:
    return Blobs(folder / "blobs", limit_bytes=limit_bytes, needed=lambda: set(needed))


def send(blobs: Blobs, content: bytes, offset: int = 0, length: int | None = None) -> str:
    sha = sha256(content)
    blobs.begin(sha, offset, len(content) - offset, len(content) if length is None else length)
    blobs.append(sha, offset, content[offset:])
    return sha


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "blobs").iterdir())


def test_a_blob_arrives_in_parts_over_restarts(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    sha = sha256(content)
    for start in range(0, 10_000, 2_500):
        blobs = store(tmp_path)
        assert blobs.offset(sha) == start
        assert blobs.size(sha) is None
        blobs.begin(sha, start, 2_500, 10_000)
        for place in range(start, start + 2_500, 500):
            assert blobs.append(sha, place, content[place : place + 500]) == place + 500
    assert blobs.finish(sha)
    assert not blobs.finish(sha)
    assert blobs.path(sha).read_bytes() == content
    assert blobs.path(sha).stat().st_mode & 0o777 == 0o444
    assert names(tmp_path) == [sha]


def test_a_corrupted_chunk_is_found_and_all_of_it_discarded(tmp_path: Path) -> None:
    blobs, content = store(tmp_path), b"x" * 1000
    sha = sha256(content)
    blobs.begin(sha, 0, 1000, 1000)
    blobs.append(sha, 0, b"x" * 500 + b"y" + b"x" * 499)
    with pytest.raises(Refused, match="DIGEST_MISMATCH"):
        blobs.finish(sha)
    assert names(tmp_path) == []
    assert blobs.size(sha) is None
    send(blobs, content)
    assert blobs.finish(sha)


def test_what_a_crash_spoiled_is_found(tmp_path: Path) -> None:
    content = b"x" * 1000
    sha = send(store(tmp_path), content)
    (tmp_path / "blobs" / f"{sha}.part").write_bytes(b"\0" * 1000)
    with pytest.raises(Refused, match="DIGEST_MISMATCH"):
        store(tmp_path).finish(sha)


@pytest.mark.parametrize("offset", [0, 399, 401, 1000])
def test_a_wrong_offset_is_refused_with_the_right_one(tmp_path: Path, offset: int) -> None:
    blobs, content = store(tmp_path), b"x" * 1000
    sha = sha256(content)
    blobs.begin(sha, 0, 400, 1000)
    blobs.append(sha, 0, content[:400])
    for call in (lambda: blobs.begin(sha, offset, 1, 1000), lambda: blobs.append(sha, offset, b"x")):
        with pytest.raises(Refused) as found:
            call()
        assert (found.value.status, found.value.problem.code) == (409, "WRONG_OFFSET")
        assert found.value.problem.expected == ("400",)
        assert found.value.headers == {"Upload-Offset": "400"}
    assert (tmp_path / "blobs" / f"{sha}.part").read_bytes() == content[:400]
    with pytest.raises(Refused, match="WRONG_OFFSET"):
        blobs.finish(sha)  # bytes are missing, which is no reason to lose those that are there
    assert blobs.offset(sha) == 400


def test_more_than_was_announced_is_refused_and_not_stored(tmp_path: Path) -> None:
    blobs, sha = store(tmp_path), sha256(b"x" * 10)
    with pytest.raises(Refused, match="OVER_LENGTH") as found:
        blobs.begin(sha, 0, 11, 10)
    assert found.value.status == 413
    assert names(tmp_path) == []
    blobs.begin(sha, 0, 5, 10)
    with pytest.raises(Refused, match="OVER_LENGTH"):
        blobs.append(sha, 0, b"x" * 11)
    assert blobs.offset(sha) == 0


def test_a_whole_blob_takes_no_more(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    sha = send(blobs, b"x" * 10)
    blobs.finish(sha)
    with pytest.raises(Refused, match="WRONG_OFFSET: the blob ends at 10"):
        blobs.begin(sha, 0, 10, 10)


def test_the_empty_blob(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    assert blobs.finish(sha256(b""))
    assert blobs.size(sha256(b"")) == 0


def test_room_is_set_aside_before_anything_is_written(tmp_path: Path) -> None:
    blobs = store(tmp_path, limit_bytes=1000)
    first, second = sha256(b"1"), sha256(b"2")
    blobs.begin(first, 0, 1, 600)
    assert blobs.free_bytes() == 400
    with pytest.raises(Refused, match="NO_SPACE") as found:
        blobs.begin(second, 0, 1, 401)
    assert found.value.status == 507
    assert names(tmp_path) == []
    blobs.begin(second, 0, 1, 400)
    blobs.append(second, 0, b"x" * 100)
    assert blobs.free_bytes() == 0
    blobs.release()
    assert blobs.free_bytes() == 1000  # of what nobody sends any more, nothing counts
    with pytest.raises(Refused, match="STALE_EPOCH"):
        blobs.append(second, 100, b"x")


def test_a_full_disk_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(f_bavail=SPARE_BYTES // 4096 + 1, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    blobs = store(tmp_path, limit_bytes=1 << 40)
    with pytest.raises(Refused, match="NO_SPACE"):
        blobs.begin(sha256(b"x"), 0, 1, 4097)
    blobs.begin(sha256(b"x"), 0, 1, 4096)
    assert names(tmp_path) == []


def test_unneeded_blobs_make_room_oldest_first(tmp_path: Path) -> None:
    contents = [bytes([number]) * 300 for number in range(4)]
    shas = [sha256(content) for content in contents]
    blobs = store(tmp_path, limit_bytes=1200, needed=shas[:1])
    for number, content in enumerate(contents):
        send(blobs, content)
        blobs.finish(shas[number])
        os.utime(blobs.path(shas[number]), ns=(number, number))
    part = sha256(b"unfinished")
    assert blobs.size(shas[1]) == 300  # asked for: now the one that was used last
    assert blobs.free_bytes() == 900
    send(blobs, b"a" * 301)
    assert [blobs.path(sha).exists() for sha in shas] == [True, True, False, False]
    blobs.release()
    with pytest.raises(Refused, match="NO_SPACE"):
        blobs.begin(part, 0, 1, 901)
    assert blobs.path(shas[1]).exists(), "nothing goes in vain"
    blobs.begin(part, 0, 1, 900)
    assert names(tmp_path) == [shas[0]], "what another lease had begun goes too"


def test_two_connections_with_one_blob_do_not_spoil_it(tmp_path: Path) -> None:
    blobs, content = store(tmp_path), os.urandom(200_000)
    sha = sha256(content)
    refusals = []

    def upload() -> None:
        place = 0
        while place < len(content):
            try:
                blobs.begin(sha, place, 100, len(content))
                place = blobs.append(sha, place, content[place : place + 1000])
            except Refused as error:
                refusals.append(error.problem.code)
                place = int(error.problem.expected[0])

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refusals) <= {"WRONG_OFFSET"}
    assert blobs.finish(sha)
    assert blobs.path(sha).read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=12), st.booleans()), max_size=25))
def test_any_calls_leave_the_bytes_that_were_said_to_be_there(
    tmp_path: Path, calls: list[tuple[int, bytes, bool]]
) -> None:
    """The model is a byte string: an append at its end extends it, any other changes nothing."""
    blobs, sha, kept = store(tmp_path), sha256(b"whatever"), b""
    blobs.begin(sha, blobs.offset(sha), 0, 1000)
    if blobs.offset(sha):
        (tmp_path / "blobs" / f"{sha}.part").unlink()
    for offset, content, restart in calls:
        if restart:
            blobs = store(tmp_path)
        fits = offset == len(kept) and len(kept) + len(content) <= 60
        with nullcontext() if fits else pytest.raises(Refused, match=r"WRONG_OFFSET|OVER_LENGTH"):
            blobs.begin(sha, offset, len(content), 60)
            kept += content
            assert blobs.append(sha, offset, content) == len(kept)
        assert blobs.offset(sha) == len(kept)
    if kept:
        assert (tmp_path / "blobs" / f"{sha}.part").read_bytes() == kept
    (tmp_path / "blobs" / f"{sha}.part").unlink(missing_ok=True)
