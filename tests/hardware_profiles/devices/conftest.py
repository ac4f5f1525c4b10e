"""An empty user, and a scripted agent that this user's host is paired with, behind a line that a test can break."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.identity import Paired
from hardware_profiles.devices import follow, lease, open_device
from hardware_profiles.devices.known import host_identity, remember
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import Request
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import NEVER, Agent, Open, known, small_bundle


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings and cache, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "config"


@pytest.fixture
def agent(tmp_path: Path, config: Path) -> Iterator[Agent]:
    """An agent that this user's host is paired with from before; not yet known by a name."""
    state = tmp_path / "agent"
    state.mkdir()
    Paired(state).add("host", host_identity().pem)
    running = Agent(state)
    yield running
    running.close()


@pytest.fixture
def line(agent: Agent) -> Iterator[Proxy]:
    """The way to the agent; ``bench`` is the device at its end."""
    with Proxy(agent.port) as proxy:
        remember(known(agent, proxy.port))
        yield proxy


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is to be closed when the test ends, before the agent is."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that a user's search makes every few seconds, made at once."""
    monkeypatch.setattr(follow, "POLL_S", 0.2)
    monkeypatch.setattr(lease, "_QUEUE_S", 0.05)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle")


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Request, ...]:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG" + bytes([number]))
    return tuple(Request(id=str(one), image=str(tmp_path / f"{one % 2}.png"), question="what ?") for one in range(4))


@pytest.fixture
def start(line: Proxy, opened: ExitStack) -> Open:
    defaults: dict[str, Any] = {"cancel": NEVER, "patience_s": 20.0}

    def make(**given: Any) -> RemoteDevice:
        device = open_device("bench", **defaults | given)
        opened.callback(device.close)
        return device

    return make
