"""Hosts of a device on the bench: in this process, as a process of their own, or call by call."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.identity import Paired
from hardware_profiles.certificates import Identity
from hardware_profiles.devices import open_device
from hardware_profiles.devices.connection import Answer, Connection, pinned
from hardware_profiles.devices.known import KnownDevice, host_identity, remember
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.devices.upload import Packed
from hardware_profiles.wire import EPOCH_HEADER, JobState, Lease, LeaseRequest, dump, parse
from tests.faults.bench import HERE, NEVER, TTL_S, Bench


@dataclass(frozen=True)
class Host:
    """A host that devices know by a certificate of its own. ``home``: its user's settings."""

    home: Path

    @property
    def identity(self) -> Identity:
        with self.at_home():
            return host_identity()

    @contextmanager
    def at_home(self) -> Iterator[None]:
        with mock.patch.dict(os.environ, XDG_CONFIG_HOME=str(self.home / "config")):
            yield

    def meet(self, bench: Bench, port: int = 0) -> None:
        """Have been paired with a device, whose agent is not running; known here as ``bench``, at its address."""
        Paired(bench.state).add(self.home.name, self.identity.pem)
        if port or bench.port:
            self.remember(bench, port)

    def remember(self, bench: Bench, port: int = 0) -> None:
        with self.at_home():
            remember(
                KnownDevice(
                    name="bench",
                    address=f"{bench.address}:{port or bench.port}",
                    certificate=bench.identity.pem,
                    fingerprint=bench.identity.fingerprint,
                    paired="2026-01-01T00:00:00+00:00",
                )
            )

    @contextmanager
    def open(self, **given: Any) -> Iterator[RemoteDevice]:
        """The device, opened as a search does; closed at the end."""
        settings: dict[str, Any] = {"cancel": NEVER, "patience_s": 30.0} | given
        with self.at_home():
            device = open_device("bench", **settings)
        try:
            yield device
        finally:
            device.close()

    @contextmanager
    def calls(self, bench: Bench) -> Iterator["Calls"]:
        """Single calls, of which any may be wrong."""
        with Connection("bench", f"{bench.address}:{bench.port}", pinned(bench.identity.pem, self.identity)) as line:
            yield Calls(line)

    @contextmanager
    def process(
        self, bundle: Path, image: Path, question: str, *, before: Sequence[str] = (), **settings: Any
    ) -> Iterator["HostProcess"]:
        """This host as a process of its own; ``before``: the command in front of it."""
        given = {
            "device": "bench", "owner": "", "ttl_s": TTL_S, "patience_s": 30.0,
            "bundle": str(bundle), "image": str(image), "question": question,
        } | settings  # fmt: skip
        with (
            subprocess.Popen(
                [*before, sys.executable, "-I", str(HERE / "search_host.py"), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "XDG_CONFIG_HOME": str(self.home / "config")},
            ) as process,
        ):
            try:
                host = HostProcess(process)
                assert host.hear("ready")
                yield host
            finally:
                process.kill()


class HostProcess:
    """A running ``search_host.py``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.pid = process.pid
        self.kill, self._process = process.kill, process

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def hear(self, name: str = "") -> Any:
        """What it says next: of this name, else name and value."""
        assert self._process.stdout
        said = json.loads(self._process.stdout.readline())
        ((heard, value),) = list(said.items())[:1]
        assert not name or heard == name, said
        return value if name else (heard, value)


class Calls:
    """Single calls of a paired host over a sound line. Those of 400 and above raise ``Refused``."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self.epoch: int | None = None

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: object) -> Answer:
        """Headers are named with underscores. The epoch that was taken last is named unless another is given."""
        given = {EPOCH_HEADER: str(self.epoch)} if self.epoch is not None else {}
        given |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
        return self._line.once(method, path, body=body, headers=given)

    def take(self, uuid: str, ttl_s: float = 60.0) -> Lease:
        """Take, renew or wait for the lease."""
        body = dump(LeaseRequest(ttl_s=ttl_s))
        lease = parse(Lease, self("PUT", f"/v1/leases/{uuid}", body).body)
        self.epoch = lease.epoch
        return lease

    def put(self, content: bytes) -> str:
        """Bring a blob to the device; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self("PATCH", f"/v1/blobs/{digest}", content, Upload_Offset=0, Upload_Length=len(content))
        self("PUT", f"/v1/blobs/{digest}")
        return digest

    def submit(self, job: str, packed: Packed) -> JobState:
        """Submit a job, with the blobs that the device has not."""
        try:
            answer = self("PUT", f"/v1/jobs/{job}", packed.body)
        except Refused as refusal:
            if refusal.problem.code != "MISSING_BLOBS":
                raise
            for digest in refusal.problem.expected:
                self.put(packed.blobs[digest].read_bytes())
            answer = self("PUT", f"/v1/jobs/{job}", packed.body)
        return parse(JobState, answer.body)

    def refused(self, method: str, path: str, body: bytes = b"", **headers: object) -> tuple[int, str]:
        """The status and the code with which a call is refused."""
        with pytest.raises(Refused) as refusal:
            self(method, path, body, **headers)
        return refusal.value.status, refusal.value.problem.code

    def last(self, job: str) -> Mapping[str, Any]:
        """The job's last event, once it is over."""
        seen = 0
        while True:
            for line in self("GET", f"/v1/jobs/{job}/events?after={seen}&wait=20").body.splitlines():
                event: Mapping[str, Any] = json.loads(line)
                if event["event"] in ("result", "fault"):
                    return event
                seen = event["seq"]

    def fault(self, job: str) -> Mapping[str, Any]:
        """The content of the job's last event, which is a fault."""
        last = self.last(job)
        assert last["event"] == "fault", last
        found: Mapping[str, Any] = last["content"]
        return found
