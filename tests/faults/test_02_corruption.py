"""Case 2: bytes arrive damaged. What was damaged is discarded, nothing of it is loaded."""

import hashlib
import os
from pathlib import Path

import pytest

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.messages import JobFailed
from spaces.canonical import file_digest
from tests.faults.agent_bench import Start, questions, sealed
from tests.faults.agents import ANSWERS
from tests.faults.bench import NEVER, Bench, asked, sealed_bundle
from tests.faults.hosts import Host
from tests.faults.proxy import Fault, Proxy

SIZE = 2 << 20
LEASE = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("fault", [Fault(corrupt_at=1 << 20), Fault(way="down", corrupt_at=6000)])
def test_case_02_a_flipped_byte_ends_the_connection_and_the_content_is_right(
    bench: Bench, line: Proxy, host: Host, tmp_path: Path, image: Path, fault: Fault
) -> None:
    content = os.urandom(SIZE)
    bundle = sealed_bundle(tmp_path / "large", content)
    line.plan(fault)
    with host.open() as device:
        for _ in range(4):
            answered = device.answer(bundle, asked(image), cancel=NEVER)
            assert answered.answers[0].text.split()[1] == hashlib.sha256(content).hexdigest()
    assert line.connections > 1
    assert len(bench.executions()) == 4


def test_case_02_wrong_bytes_over_a_sound_line_are_discarded(bench: Bench, host: Host) -> None:
    right, wrong = b"right" * 1000, b"wrong" * 1000
    digest = f"sha256:{hashlib.sha256(right).hexdigest()}"
    with host.calls(bench) as call:
        call.take(LEASE)
        call("PATCH", f"/v1/blobs/{digest}", wrong, Upload_Offset=0, Upload_Length=len(wrong))
        with pytest.raises(Refused) as refusal:
            call("PUT", f"/v1/blobs/{digest}")
        assert (refusal.value.status, refusal.value.problem.code) == (422, "DIGEST_MISMATCH")
        assert list((bench.state / "blobs").iterdir()) == []
        with pytest.raises(Refused) as refusal:
            call("HEAD", f"/v1/blobs/{digest}")
        assert (refusal.value.status, refusal.value.headers["Upload-Offset"]) == (404, "0")
        call("PATCH", f"/v1/blobs/{digest}", right, Upload_Offset=0, Upload_Length=len(right))
        assert call("PUT", f"/v1/blobs/{digest}").status == 201
    assert bench.blob(digest).read_bytes() == right


def test_case_02_a_bundle_that_was_changed_after_it_was_sealed_is_not_run(
    bench: Bench, host: Host, bundle: Path, image: Path
) -> None:
    (bundle / "model.bin").write_bytes(b"\1" * 1000)
    with (
        host.open() as device,
        pytest.raises(JobFailed, match=r"model\.bin is not the file that its manifest names") as e,
    ):
        device.answer(bundle, asked(image), cancel=NEVER)
    assert e.value.fault == "INVALID_INPUT"
    assert bench.executions() == []
    assert list((bench.state / "jobs").iterdir()) == []


VERIFIES = f"""
from pathlib import Path
for path in Path(job["bundle"]).glob("model.*"):
    if path.read_bytes()[:5] == b"spoil":
        say("fault", fault="INVALID_INPUT", reason="it is not the file that the manifest names")
        sys.exit()
{ANSWERS}
"""


@pytest.mark.parametrize("name", ["model.bin", "model.xml"])
def test_case_02_a_blob_that_was_spoilt_on_the_devices_disk_is_brought_again(
    start: Start, tmp_path: Path, name: str
) -> None:
    """Found by the runner, or by the check of headers: either way it is not held against the configuration."""
    agent = start(code=VERIFIES)
    bundle = sealed(tmp_path / "bundle", {"model.xml": b"<net></net>", "model.bin": b"weights"})
    device, asking = agent.open(), questions(tmp_path)
    known = device.answer(bundle, asking, cancel=NEVER).answers
    blob = agent.state / "blobs" / file_digest(bundle / name)
    blob.chmod(0o600)
    blob.write_bytes(b"spoil" + blob.read_bytes()[5:])
    assert device.answer(bundle, asking, cancel=NEVER).answers == known
    assert blob.read_bytes() == (bundle / name).read_bytes()
