import hashlib
import random
import threading
from pathlib import Path

import pytest

from hardware_profiles.agent.exchange import Asked, refused
from hardware_profiles.devices import open_device, upload
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import JobFailed
from tests.faults.proxy import Fault, Proxy
from tests.hardware_profiles.devices.scripted import Agent

SIZE = 3_000_000
CHUNK = 1 << 20


@pytest.fixture
def device(agent: Agent, line: Proxy, monkeypatch: pytest.MonkeyPatch, opened) -> RemoteDevice:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(upload, "CHUNK_BYTES", CHUNK)
    device = open_device("bench", cancel=threading.Event(), patience_s=20)
    opened.callback(device.close)
    return device


@pytest.fixture
def blob(tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "model.bin"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}", path


def test_a_file_arrives_in_chunks_and_is_never_sent_again(
    agent: Agent, device: RemoteDevice, line: Proxy, blob: tuple[str, Path]
) -> None:
    digest, path = blob
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: path.read_bytes()}
    assert agent.script.count("PATCH", digest) == 3
    sent = line.up
    device.upload({digest: path}, threading.Event())
    assert line.up - sent < 1000
    assert agent.script.count("PATCH", digest) == 3


@pytest.mark.parametrize("cut", [900_000, 1_500_000, 2_999_000])
def test_a_cut_line_resumes_where_it_was(  # case 1
    agent: Agent, device: RemoteDevice, line: Proxy, blob: tuple[str, Path], cut: int
) -> None:
    digest, path = blob
    line.plan(Fault(cut_after=cut), Fault(cut_after=400_000))
    line.cut()
    before = line.up
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: path.read_bytes()}
    assert line.connections >= 3
    assert line.up - before < SIZE * 1.01 + 3 * 20_000  # TLS, and of each connection the record that was cut


def test_corrupted_bytes_never_arrive(agent: Agent, device: RemoteDevice, line: Proxy, blob: tuple[str, Path]) -> None:
    digest, path = blob
    line.plan(Fault(corrupt_at=1_200_000))
    line.cut()
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: path.read_bytes()}


def test_an_empty_file_arrives(agent: Agent, device: RemoteDevice, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: b""}


def test_what_arrived_damaged_is_sent_once_more_from_its_beginning(
    agent: Agent, device: RemoteDevice, blob: tuple[str, Path]
) -> None:
    digest, path = blob
    agent.script.parts[digest] = bytearray(b"x" * 1000)  # as another disk error would leave it
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: path.read_bytes()}
    assert agent.script.count("PUT", digest) == 2


def test_what_arrives_damaged_again_and_again_is_a_fault_of_the_way(
    agent: Agent, device: RemoteDevice, blob: tuple[str, Path]
) -> None:
    digest, path = blob

    def spoil(asked: Asked) -> None:
        if asked.method == "PUT" and "blobs" in asked.path:
            agent.script.parts[digest][5] ^= 1

    agent.script.before = spoil
    with pytest.raises(JobFailed, match="arrived damaged at bench twice") as told:
        device.upload({digest: path}, threading.Event())
    assert told.value.fault == "TRANSPORT"
    assert agent.script.blobs == {}


def test_a_file_that_is_not_what_its_digest_says_is_the_hosts_own_fault(
    device: RemoteDevice, blob: tuple[str, Path]
) -> None:
    _, path = blob
    with pytest.raises(JobFailed, match=r"model\.bin is not the file that its manifest names") as told:
        device.upload({f"sha256:{'0' * 64}": path}, threading.Event())
    assert told.value.fault == "INVALID_INPUT"


def test_another_offset_is_looked_up(agent: Agent, device: RemoteDevice, blob: tuple[str, Path]) -> None:
    """Another host sends the same content meanwhile."""
    digest, path = blob
    content = path.read_bytes()

    def meanwhile(asked: Asked) -> None:
        if asked.method == "PATCH" and agent.script.count("PATCH", digest) == 1:
            agent.script.parts[digest] = bytearray(content[:500_000])

    agent.script.before = meanwhile
    device.upload({digest: path}, threading.Event())
    assert agent.script.blobs == {digest: content}


def test_a_full_disk_is_told(agent: Agent, device: RemoteDevice, blob: tuple[str, Path]) -> None:
    digest, path = blob

    def full(asked: Asked) -> None:
        if asked.method == "PATCH":
            raise refused(507, "NO_SPACE", "the device lacks room for 3 MB")

    agent.script.before = full
    with pytest.raises(JobFailed, match="bench refused: the device lacks room"):
        device.upload({digest: path}, threading.Event())
    assert agent.script.count("PATCH", digest) == 1
