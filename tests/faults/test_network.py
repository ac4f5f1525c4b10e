"""Cases 1, 5 and 11 over a link between two network namespaces: one that goes down, one that is narrow.

Needs the right to make namespaces (CAP_SYS_ADMIN and CAP_NET_ADMIN); without it these tests fail, they are not skipped.
A link that swallows everything is one whose frames go to an address that no device has: what iptables' DROP would do,
on machines without it too.
"""

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.faults.bench import TTL_S, Bench, sealed_bundle, until
from tests.faults.hosts import Host

HOST, DEVICE = "10.0.0.1", "10.0.0.2"
NOBODY = "02:00:00:00:00:99"


class Link:
    """Two namespaces, ``host`` and ``device``, and a cable between them."""

    def __init__(self) -> None:
        self.host, self.device = (f"vlmfront-{os.getpid()}-{end}" for end in ("host", "device"))

    def make(self) -> None:
        for name in (self.host, self.device):
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", self.host, "type", "veth", "peer", "name", "cable", "netns", self.device)
        for name, address in ((self.host, HOST), (self.device, DEVICE)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        for name in (self.host, self.device):
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)

    def inside(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", name)

    def narrow(self, bits_s: float) -> None:
        """Limit what the host may send, by a token bucket: tc-tbf(8)."""
        limit = ("rate", f"{bits_s:.0f}bit", "burst", "32kb", "latency", "100ms")
        run("tc", "-n", self.host, "qdisc", "add", "dev", "cable", "root", "tbf", *limit)

    def down(self) -> None:
        ip("-n", self.device, "link", "set", "cable", "down")

    def up(self) -> None:
        ip("-n", self.device, "link", "set", "cable", "up")

    def swallow(self) -> None:
        """What either side sends arrives nowhere, and neither is told."""
        for name, other in ((self.host, DEVICE), (self.device, HOST)):
            ip("-n", name, "neigh", "replace", other, "lladdr", NOBODY, "dev", "cable", "nud", "permanent")

    def restore(self) -> None:
        for name, other in ((self.host, DEVICE), (self.device, HOST)):
            ip("-n", name, "neigh", "delete", other, "dev", "cable")

    def received(self) -> int:
        """Bytes that have reached the device."""
        (found,) = json.loads(ip("-n", self.device, "-s", "-j", "link", "show", "cable"))
        count: int = found["stats64"]["rx"]["bytes"]
        return count

    def accepted(self) -> int:
        """Connections that the device has taken: PassiveOpens of RFC 4022, second of /proc/net/snmp's two lines."""
        lines = run(*self.inside(self.device), "cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("PassiveOpens")])


def ip(*arguments: str) -> str:
    return run("ip", *arguments)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    try:
        made.make()
        yield made
    finally:
        made.remove()


@pytest.fixture
def bench(tmp_path: Path, link: Link, host: Host, other: Host) -> Iterator[Bench]:
    """The device at the far end of the link."""
    device = Bench(tmp_path / "bench", address=DEVICE, before=link.inside(link.device))
    for one in (host, other):
        one.meet(device)
    try:
        device.start()
        for one in (host, other):
            one.remember(device)
        yield device
    finally:
        device.close()


@pytest.mark.parametrize(
    ("silent", "gone_s", "answer_s"),
    [
        pytest.param(False, 1.2, 30.0, id="down"),
        pytest.param(True, 3.0, 1.0, id="silent until calls time out", marks=pytest.mark.slow),
    ],
)
def test_case_01_an_upload_outlives_a_link_that_is_gone_for_several_retries_of_tcp(
    bench: Bench, link: Link, host: Host, tmp_path: Path, image: Path, silent: bool, gone_s: float, answer_s: float
) -> None:
    """TCP sends again after 0.2 s at the earliest (TCP_RTO_MIN in Linux), then after twice as long each time."""
    content = os.urandom(4 << 20)
    digest = hashlib.sha256(content).hexdigest()
    bundle = sealed_bundle(tmp_path / "large", content)
    link.narrow(24e6)
    with host.process(bundle, image, "what ?", before=link.inside(link.host), ttl_s=60.0, answer_s=answer_s) as process:
        process.go_on()
        until(lambda: stored(bench) > 2 << 20)
        (link.swallow if silent else link.down)()
        before = stored(bench)
        begun = time.monotonic()
        threading.Event().wait(gone_s)
        assert stored(bench) - before < 1 << 20  # at most what was on the way into one write
        (link.restore if silent else link.up)()
        assert process.hear("opened")
        assert process.hear("answered").split()[1] == digest
        assert gone_s < time.monotonic() - begun < gone_s + 10
        process.go_on()
        assert process.hear("closed")
    assert hashlib.sha256(bench.blob(digest).read_bytes()).hexdigest() == digest
    assert (link.accepted() > 1) is (answer_s < gone_s)  # else TCP alone has mended it
    assert len(content) < link.received() < 1.4 * len(content)
    assert len(bench.executions()) == 1


@pytest.mark.slow
def test_case_11_two_hosts_over_a_narrow_link_keep_their_leases(
    bench: Bench, link: Link, host: Host, other: Host, tmp_path: Path, image: Path
) -> None:
    """The upload of the one takes longer than a lease lasts, while the other asks for its turn."""
    rate = 8e6
    contents = {"host": os.urandom(int(1.15 * TTL_S * rate / 8)), "other": os.urandom(1 << 19)}
    link.narrow(rate)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                one.process(
                    sealed_bundle(tmp_path / f"bundle of {name}", contents[name]),
                    image,
                    f"hold for {name}",
                    before=link.inside(link.host),
                )
            )
            for name, one in (("host", host), ("other", other))
        )
        begun = time.monotonic()
        first.go_on()
        until(lambda: stored(bench))
        second.go_on()
        assert second.hear("waiting") == "bench is taken; place 1 in its queue"
        bench.executed()
        assert time.monotonic() - begun > max(TTL_S, 8 * len(contents["host"]) / rate - 0.1)
        bench.go()
        for process, content in ((first, contents["host"]), (second, contents["other"])):
            assert process.hear("opened")
            assert process.hear("answered").split()[1] == hashlib.sha256(content).hexdigest()
            process.go_on()
            assert process.hear("closed")
    assert [one.question for one in bench.executions()] == ["hold for host", "hold for other"]
    assert bench.audit("stale epoch") == []


def stored(bench: Bench) -> int:
    """Bytes of all blobs, whole or not."""
    size = 0
    for path in (bench.state / "blobs").iterdir():
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size
