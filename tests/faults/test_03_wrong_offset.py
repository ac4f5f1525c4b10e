"""Case 3: a chunk for another offset than the committed one, or longer than was announced: nothing stored changes."""

import hashlib
from pathlib import Path

import pytest

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.wire import CHUNK_BYTES
from tests.faults.bench import Bench
from tests.faults.hosts import Calls, Host

LEASE = "00000000-0000-4000-8000-000000000001"
CONTENT = bytes(range(250)) * 40
HALF = len(CONTENT) // 2
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
WHERE = f"/v1/blobs/{DIGEST}"


def grow(call: Calls, content: bytes, offset: int, length: int = len(CONTENT)) -> None:
    call("PATCH", WHERE, content, Upload_Offset=offset, Upload_Length=length)


def test_case_03_a_wrong_offset_is_409_and_names_the_right_one(bench: Bench, host: Host) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        grow(call, CONTENT[:HALF], 0)
        for offset in (0, HALF - 1, HALF + 1, len(CONTENT)):
            with pytest.raises(Refused) as refusal:
                grow(call, b"\0" * min(100, len(CONTENT) - offset), offset)
            assert (refusal.value.status, refusal.value.problem.code) == (409, "WRONG_OFFSET")
            assert refusal.value.problem.expected == (str(HALF),)
            assert bench.part(DIGEST) == CONTENT[:HALF]
        grow(call, CONTENT[HALF:], HALF)
        assert call("PUT", WHERE).status == 201
        with pytest.raises(Refused, match="WRONG_OFFSET"):  # of a blob that is whole, too
            grow(call, b"\0", 0, 1)
    assert bench.blob(DIGEST).read_bytes() == CONTENT


def test_case_03_more_than_was_announced_is_413(bench: Bench, host: Host) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        grow(call, CONTENT[:HALF], 0)
        for content, length in ((CONTENT[HALF:] + b"\0", len(CONTENT)), (CONTENT[HALF:], HALF + 1)):
            with pytest.raises(Refused) as refusal:
                grow(call, content, HALF, length)
            assert (refusal.value.status, refusal.value.problem.code) == (413, "OVER_LENGTH")
            assert bench.part(DIGEST) == CONTENT[:HALF]
        with pytest.raises(Refused) as refusal:  # more than a chunk may have, whatever was announced
            grow(call, bytes(CHUNK_BYTES + 1), HALF, HALF + CHUNK_BYTES + 1)
        assert (refusal.value.status, refusal.value.problem.code) == (413, "OVER_LENGTH")
        assert bench.part(DIGEST) == CONTENT[:HALF]
        grow(call, CONTENT[HALF:], HALF)
        call("PUT", WHERE)
    assert bench.blob(DIGEST).read_bytes() == CONTENT


def test_case_03_what_is_stored_outlives_the_agent(bench: Bench, host: Host, tmp_path: Path) -> None:
    """The committed offset is that of the disk: an agent that is killed knows it afterwards."""
    with host.calls(bench) as call:
        call.take(LEASE)
        grow(call, CONTENT[:HALF], 0)
    bench.kill()
    bench.start()
    with host.calls(bench) as call:
        call.take(LEASE)
        with pytest.raises(Refused) as refusal:
            call("HEAD", WHERE)
        assert refusal.value.headers["Upload-Offset"] == str(HALF)
        grow(call, CONTENT[HALF:], HALF)
        assert call("PUT", WHERE).status == 201
