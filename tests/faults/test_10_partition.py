"""Case 10: a partition outlives the lease, then the host of before writes: refused, and nothing is overwritten."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware_profiles.devices.upload import pack
from tests.faults.bench import NEVER, TTL_S, Bench, asked, runs, until
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

MINE, THEIRS = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
JOB, LATE_JOB, THEIR_JOB = (f"00000000-0000-4000-8000-00000000001{number}" for number in (1, 2, 3))
FIRST = (1 << 32) + 1  # the first epoch of an agent's second start
CONTENT = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def still(state: Path) -> dict[str, bytes]:
    """What the agent keeps, but for the events of the job that runs."""
    events = str(state / "jobs" / THEIR_JOB / "events.jsonl")
    return {path: content for path, content in tree(state).items() if path != events}


def test_case_10_every_late_write_is_stale_and_changes_nothing(
    bench: Bench, host: Host, other: Host, bundle: Path, image: Path
) -> None:
    bench.kill()
    bench.start(haste=2.0)
    with host.calls(bench) as late, other.calls(bench) as call:
        epoch = late.take(MINE, TTL_S).epoch
        late("PATCH", f"/v1/blobs/{DIGEST}", CONTENT[:5000], Upload_Offset=0, Upload_Length=len(CONTENT))
        late.submit(JOB, pack("answer", bundle, asked(image, "hold")))
        runner = bench.executed()
        call.take(THEIRS)
        until(lambda: call.take(THEIRS).epoch is not None)
        assert (epoch, call.epoch) == (FIRST, FIRST + 1)
        call.submit(THEIR_JOB, pack("answer", bundle, asked(image, "hold theirs")))
        theirs = bench.executed(2)
        assert not runs(runner.pid)
        before = still(bench.state)
        writes = {
            f"PATCH /v1/blobs/{DIGEST}": {"Upload_Offset": 5000, "Upload_Length": len(CONTENT)},
            f"PUT /v1/blobs/{DIGEST}": {},
            f"PUT /v1/jobs/{LATE_JOB}": {},
            f"PUT /v1/jobs/{JOB}/acknowledged": {},
            f"DELETE /v1/jobs/{JOB}": {},
            f"DELETE /v1/jobs/{THEIR_JOB}": {},
        }
        for written, headers in writes.items():
            method, path = written.split()
            body = CONTENT[5000:] if method == "PATCH" else b""
            assert late.refused(method, path, body, **headers) == (409, "STALE_EPOCH")
            # Another's epoch does not help: it belongs to the one who took it.
            assert late.refused(method, path, body, **headers, Lease_Epoch=call.epoch) == (409, "STALE_EPOCH")
        assert still(bench.state) == before
        assert runs(theirs.pid)
        assert late.fault(JOB)["fault"] == "STALE_EPOCH"
        peer = host.identity.fingerprint[:16]
        assert bench.audit("stale epoch") == [
            f"{written} of {peer} under epoch {number}" for written in writes for number in (epoch, call.epoch)
        ]
        bench.go()
        assert call.last(THEIR_JOB)["event"] == "result"
    assert len(bench.executions()) == 2


def test_case_10_a_host_behind_a_partition_queues_again_and_has_its_job_done(
    bench: Bench,
    line: Proxy,
    host: Host,
    other: Host,
    bundle: Path,
    image: Path,
    aside: ThreadPoolExecutor,
    short_leases: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hardware_profiles.devices.lease")
    with host.open() as device, other.calls(bench) as call:
        result = aside.submit(device.answer, bundle, asked(image, "hold"), cancel=NEVER)
        first = bench.executed()
        line.partition()
        cut = time.monotonic()
        until(lambda: call.take(THEIRS).epoch is not None)
        assert time.monotonic() - cut < TTL_S + 1.5
        until(lambda: not runs(first.pid))
        call.submit(THEIR_JOB, pack("answer", bundle, asked(image, "hold theirs")))
        bench.executed(2)
        line.heal()
        until(lambda: "no longer takes epoch 1" in caplog.text or "its epoch is now None" in caplog.text)
        assert len(bench.executions()) == 2
        bench.go()
        assert call.last(THEIR_JOB)["event"] == "result"
        call("DELETE", f"/v1/leases/{THEIRS}")
        assert result.result(30).answers[0].text.split()[0] == str(bench.executed(3).pid)
    assert [one.question for one in bench.executions()] == ["hold", "hold theirs", "hold"]


def tree(state: Path) -> dict[str, bytes]:
    """All that is stored of blobs and jobs."""
    found = [path for folder in ("blobs", "jobs") for path in (state / folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in (*found, state / "journal.jsonl")}
