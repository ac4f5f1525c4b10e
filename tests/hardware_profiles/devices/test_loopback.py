import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from hardware_profiles.bundle import Bundle
from hardware_profiles.devices import loopback, open_device
from hardware_profiles.devices.loopback import LocalAgent
from hardware_profiles.messages import JobFailed, Request

NEVER = threading.Event()
HOST = """
import sys, threading
from hardware_profiles.devices.loopback import LocalAgent
agent = LocalAgent()
print(agent.pid, agent.folder, flush=True)
sys.stdin.readline()
"""


def test_the_local_device_answers_as_any_other(
    sealed: Callable[..., Bundle], requests: tuple[Request, ...], opened: ExitStack
) -> None:
    device = open_device("local", cancel=NEVER)
    opened.callback(device.close)
    assert (device.name, device.here) == ("local", True)
    assert device.agent_pid is not None
    folder = sealed().folder
    answered = device.answer(folder, requests[:6], cancel=NEVER)
    assert [one.id for one in answered.answers] == [one.id for one in requests[:6]]
    (agent,) = (Path(os.environ["XDG_CACHE_HOME"]) / "vlmfront" / "agents").glob("*/")
    device.close()
    assert not agent.exists()
    assert not runs(device.agent_pid)


def test_the_local_device_has_the_owners_servers(
    sealed: Callable[..., Bundle], requests: tuple[Request, ...], opened: ExitStack, tiny_server: str
) -> None:
    device = open_device("local", cancel=NEVER)
    opened.callback(device.close)
    assert device.hello.servers == (tiny_server,)
    assert "server" in device.hello.runtimes
    served = device.answer(sealed("server", server=tiny_server).folder, requests[:4], cancel=NEVER)
    plain = device.answer(sealed("torch").folder, requests[:4], cancel=NEVER)
    assert [one.text for one in served.answers] == [one.text for one in plain.answers]
    assert served.properties["server"] == tiny_server


@pytest.mark.slow
def test_the_local_device_measures(
    sealed: Callable[..., Bundle], requests: tuple[Request, ...], opened: ExitStack
) -> None:
    """Slow where the machine is busy: what is invalid for that is measured again after a pause."""
    device = open_device("local", cancel=NEVER)
    opened.callback(device.close)
    folder = sealed().folder
    measured = device.measure(folder, requests[:2], cancel=NEVER)
    assert len(measured.timings) >= 11
    assert all(0 < timing.ttft_ms <= timing.e2e_ms for timing in measured.timings)
    texts = {one.id: one.text for one in device.answer(folder, requests[:2], cancel=NEVER).answers}
    assert {timing.id: timing.text for timing in measured.timings} == texts


def test_an_agent_that_is_killed_comes_back_under_its_address(opened: ExitStack) -> None:
    device = open_device("local", cancel=NEVER, patience_s=60.0)
    opened.callback(device.close)
    first = device.agent_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert device.connection.call(device._patience(NEVER), "GET", "/v1/hello").status == 200
    assert device.agent_pid != first


def test_an_agent_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "SERVE", (sys.executable, "-c", "raise SystemExit('no port is free')"))
    with pytest.raises(JobFailed, match="the agent on this machine did not start: no port is free") as told:
        LocalAgent()
    assert told.value.fault == "DEVICE_LOST"
    assert not list((Path(os.environ["XDG_CACHE_HOME"]) / "vlmfront" / "agents").glob("*/"))


def test_it_dies_with_a_search_that_is_killed_and_the_next_one_sweeps_up(opened: ExitStack) -> None:
    search = subprocess.Popen(
        [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with search:
        assert search.stdout is not None
        pid, folder = search.stdout.readline().split()
        search.kill()
    end = time.monotonic() + 10
    while runs(int(pid)):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert Path(folder).exists()
    agent = LocalAgent()
    opened.callback(agent.close)
    assert not Path(folder).exists()
    assert agent.folder.exists()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
