"""Case 20: the disk is full: 507 before anything is written, unreferenced blobs go, and work goes on afterwards."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from hardware_profiles.devices.connection import Patience
from hardware_profiles.devices.upload import Packed
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import EPOCH_HEADER, LENGTH_HEADER, OFFSET_HEADER
from spaces.canonical import file_digest
from tests.faults.agent_bench import NEVER, Start, questions, sealed
from tests.faults.agents import ANSWERS
from tests.hardware_profiles.agent.test_headers import entry, tensors

MB = 10**6
WAITS = "import pathlib\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\n"


def weights(seed: int, size: int) -> dict[str, bytes]:
    """A file of ``size`` bytes and a little, of any content."""
    return {"model.safetensors": tensors({"a": entry("U8", [size], 0, size)}, bytes([seed]) * size)}


def noise(folder: Path, size: int) -> tuple[str, Path]:
    """A file of noise, by its digest."""
    path = folder / "noise"
    path.write_bytes(os.urandom(size))
    return f"sha256:{file_digest(path)}", path


def test_case_20_blobs_that_no_job_needs_make_room_for_others(start: Start, tmp_path: Path) -> None:
    agent = start("--disk", "3MB")
    device, asked = agent.open(), questions(tmp_path)
    for seed in range(3):  # two of them have no room together
        folder = sealed(tmp_path / f"bundle-{seed}", weights(seed, 2 * MB))
        assert len(device.answer(folder, asked, cancel=NEVER).answers) == len(asked)
        assert sum(agent.blobs().values()) <= 3 * MB
    assert agent.executions() == 3


def test_case_20_what_has_no_room_is_refused_before_it_is_written(start: Start, tmp_path: Path) -> None:
    agent = start("--disk", "3MB")
    device, asked = agent.open(), questions(tmp_path)
    small = sealed(tmp_path / "small", weights(1, MB))
    device.answer(small, asked, cancel=NEVER)
    before = agent.blobs()
    digest, path = noise(tmp_path, 4 * MB)
    with pytest.raises(JobFailed, match="no room for 4000000 more bytes"):
        device.upload({digest: path}, NEVER)
    assert agent.blobs() == before
    assert len(device.answer(small, asked, cancel=NEVER).answers) == len(asked)


def test_case_20_what_a_running_job_needs_stays_whoever_wants_room(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    agent = start("--disk", "3MB", code=WAITS.format(str(go)) + ANSWERS)
    device, asked = agent.open(), questions(tmp_path)
    folder = sealed(tmp_path / "bundle", weights(1, 2 * MB))
    found: list[int] = []
    work = threading.Thread(target=lambda: found.append(len(device.answer(folder, asked, cancel=NEVER).answers)))
    submitted = threading.Event()
    submit = device._submit

    def noticed(job: Packed, patience: Patience) -> UUID:
        uuid = submit(job, patience)
        submitted.set()
        return uuid

    monkeypatch.setattr(device, "_submit", noticed)
    work.start()
    assert submitted.wait(20)
    before = agent.blobs()
    digest, path = noise(tmp_path, 2 * MB)
    with pytest.raises(JobFailed, match="no room"):
        device.upload({digest: path}, NEVER)
    assert agent.blobs() == before
    go.touch()
    work.join(20)
    assert found == [len(asked)]
    device.close()
    again = agent.open()
    again.upload({digest: path}, NEVER)  # the job is acknowledged, so its blobs may go


def test_case_20_a_file_system_without_room(start: Start, tmp_path: Path) -> None:
    """A disk of 96 MB, of which blobs leave 64 MiB alone: the agent says what it may take, and takes no more."""
    agent = start(tmpfs="96m")
    device, asked = agent.open(), questions(tmp_path)
    free = device.hello.disk_free_bytes
    assert 28 * MB < free < 34 * MB
    digest, path = noise(tmp_path, free + MB)
    before = agent.blobs()
    with pytest.raises(JobFailed, match=f"no room for {free + MB} more bytes"):
        device.upload({digest: path}, NEVER)
    assert agent.blobs() == before
    for seed in range(3):  # of 20 MB each: every one pushes out the one before
        folder = sealed(tmp_path / f"bundle-{seed}", weights(seed, 20 * MB))
        assert len(device.answer(folder, asked, cancel=NEVER).answers) == len(asked)


def test_case_20_a_disk_that_others_filled_to_the_last_byte(start: Start, tmp_path: Path) -> None:
    agent = start(tmpfs="96m")
    device, asked = agent.open(), questions(tmp_path)
    folder = sealed(tmp_path / "bundle", weights(1, MB))
    device.answer(folder, asked, cancel=NEVER)
    ballast = agent.state / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(1 << 20)):
            pass
    assert shutil.disk_usage(agent.state).free == 0
    whole = agent.blobs()
    with pytest.raises(JobFailed, match=r"cannot|no room"):
        device.answer(folder, asked[:1], cancel=NEVER)
    digest, path = noise(tmp_path, 1000)
    with pytest.raises(JobFailed, match="no room for 1000 more bytes"):
        device.upload({digest: path}, NEVER)
    assert agent.blobs().items() <= whole.items()
    assert agent.process.poll() is None
    ballast.unlink()
    assert len(device.answer(folder, asked[:1], cancel=NEVER).answers) == 1
    device.upload({digest: path}, NEVER)
    assert agent.executions() == 2


def test_case_20_a_blob_announced_too_long_is_refused_without_a_byte(start: Start, tmp_path: Path) -> None:
    """What a host without this product's client may say: a chunk that fits, of a blob that never will."""
    agent = start("--disk", "3MB")
    device = agent.open()
    digest, _ = noise(tmp_path, 10)
    epoch = device._lease.epoch(device._patience(NEVER))
    headers = {EPOCH_HEADER: str(epoch), OFFSET_HEADER: "0", LENGTH_HEADER: str(10**18 - 1), "Content-Length": "10"}
    with pytest.raises(Exception, match="no room") as refusal:
        device.connection.once("PATCH", f"/v1/blobs/{digest}", body=[b"x" * 10], headers=headers)
    assert refusal.value.status == 507  # type: ignore[attr-defined]
    assert agent.blobs() == {}
