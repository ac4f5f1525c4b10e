"""The host against the agent that a device runs: paired by its own commands, behind a line that breaks."""

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from hardware_profiles.bundle import Bundle
from hardware_profiles.devices import open_device
from hardware_profiles.devices.pairing import add_device
from hardware_profiles.messages import Answer, Request
from spaces.canonical import file_digest
from tests.faults.proxy import Fault, Proxy
from tests.hardware_profiles.devices.scripted import die

NEVER = threading.Event()
COMMAND = (sys.executable, "-I", "-m", "hardware_profiles.agent.cli")


class Served:
    """An agent as its owner starts it; ``restart`` kills it first (SIGKILL)."""

    def __init__(self, state: Path) -> None:
        self.state, self.port = state, 0
        self.process: subprocess.Popen[bytes]
        self.restart()

    def restart(self) -> None:
        if self.port:
            self.process.kill()
            self.stop()
        command = [*COMMAND, "serve", "--json", "--port", str(self.port), "--state", str(self.state)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def stop(self) -> None:
        with self.process:
            self.process.send_signal(signal.SIGTERM)

    def token(self) -> str:
        done = subprocess.run(
            [*COMMAND, "pair", "--state", str(self.state), "--json"], capture_output=True, text=True, check=True
        )
        return str(json.loads(done.stdout)["token"])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path / "device")
    yield running
    running.stop()


def test_two_commands_pair_a_device_and_a_broken_line_costs_nothing_twice(
    served: Served, tmp_path: Path, opened: ExitStack
) -> None:
    line = opened.enter_context(Proxy(served.port))
    add_device("bench", f"127.0.0.1:{line.port}", served.token())
    device = open_device("bench", cancel=NEVER, patience_s=30.0)
    opened.callback(device.close)
    assert (device.here, device.agent_pid) == (True, None)
    path = tmp_path / "blob"
    path.write_bytes(random.Random(1).randbytes(20_000_000))
    sha = file_digest(path)
    line.plan(Fault(cut_after=3_000_000), Fault(cut_after=6_000_000))
    line.cut()
    before = line.up
    device.upload({f"sha256:{sha}": path}, NEVER)
    assert file_digest(served.state / "blobs" / sha) == sha
    assert line.up - before < 20_500_000
    path.write_bytes(random.Random(2).randbytes(20_000_000))
    other = file_digest(path)
    line.plan(Fault(corrupt_at=6_000_000))
    line.cut()
    device.upload({f"sha256:{other}": path}, NEVER)
    assert file_digest(served.state / "blobs" / other) == other


def test_a_killed_agent_and_a_restarted_host_find_the_job_again(  # cases 6 and 7
    served: Served, sealed: Callable[..., Bundle], requests: tuple[Request, ...], opened: ExitStack
) -> None:
    add_device("bench", f"127.0.0.1:{served.port}", served.token())
    folder = sealed().folder
    killed = open_device("bench", cancel=NEVER, patience_s=60.0, owner="run-7")
    opened.callback(killed.close)
    told: list[str] = []
    seen: list[str] = []

    def kill_once(came: Sequence[Answer]) -> bool:
        if not seen:
            served.restart()
        seen.extend(one.id for one in came)
        return False

    first = killed.answer(folder, requests, cancel=NEVER, enough=kill_once)
    assert [one.id for one in first.answers] == [one.id for one in requests] == seen
    die(killed)
    heard = open_device("bench", cancel=NEVER, waiting=told.append, patience_s=60.0, owner="run-7")
    opened.callback(heard.close)
    assert told == []  # its lease is still there
    jobs = sorted((served.state / "jobs").iterdir())
    assert heard.answer(folder, requests, cancel=NEVER) == first
    assert sorted((served.state / "jobs").iterdir()) == jobs
