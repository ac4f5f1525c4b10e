"""A device on the bench with its agent running, two hosts that it knows, and what they ask about."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware_profiles.devices import lease
from tests.faults.bench import TTL_S, Bench, sealed_bundle
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

Short = Callable[[], None]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def other(tmp_path: Path) -> Host:
    """A second host."""
    return Host(tmp_path / "other")


@pytest.fixture
def bench(tmp_path: Path, host: Host, other: Host) -> Iterator[Bench]:
    """The device, which both hosts reach directly; its agent runs."""
    device = Bench(tmp_path / "bench")
    for one in (host, other):
        one.meet(device)
    try:
        device.start()
        for one in (host, other):
            one.remember(device)
        yield device
    finally:
        device.close()


@pytest.fixture
def line(bench: Bench, host: Host) -> Iterator[Proxy]:
    """The way of the first host to the device."""
    with Proxy(bench.port) as proxy:
        host.remember(bench, proxy.port)
        yield proxy


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sealed_bundle(tmp_path / "bundle")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "0.png"
    path.write_bytes(b"\x89PNG")
    return path


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Does things in threads of their own."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of this process take leases of the shortest time that the protocol has."""
    monkeypatch.setattr(lease.DeviceLease.__init__, "__defaults__", (TTL_S,))
