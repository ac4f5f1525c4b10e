"""An empty user, and a scripted agent that this user's host is paired with, behind a line that a test can break."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hardware_profiles.agent.identity import Paired
from hardware_profiles.devices.known import host_identity, remember
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import Agent, known


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
