"""An agent whose door is the real one and whose service is a script in memory: what it is asked, it does at once."""

import asyncio
import contextlib
import hashlib
import inspect
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hardware_profiles.agent.access import Access
from hardware_profiles.agent.exchange import Asked, Reply, refused
from hardware_profiles.agent.identity import Tokens
from hardware_profiles.agent.listener import Listener
from hardware_profiles.bundle import Execution, seal
from hardware_profiles.certificates import Identity, identity_in
from hardware_profiles.devices.known import KnownDevice
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import Measurement, Process, Timing
from hardware_profiles.wire import (
    EPOCH_HEADER,
    LENGTH_HEADER,
    OFFSET_HEADER,
    Event,
    Facts,
    Hello,
    JobState,
    JobStatus,
    Lease,
    WireJob,
    dump,
    parse,
)  # fmt: skip
from spaces.prompting import Prompt

Open = Callable[..., RemoteDevice]
FACTS = Facts(machine="x86_64", model="a board", cpu="a cpu", memory_bytes=8 << 30, threads=4, dtypes=("f32",))
NEVER = threading.Event()
HELLO = Hello(protocols=(1, 1), agent="0.1.0", boot_id="another", runtimes={"openvino": "9999.0"}, facts=FACTS)


def measurement(e2e_ms: float = 5.0) -> Measurement:
    timing = Timing(
        id="0", text="red", preprocess_ms=None, vision_ms=None, prefill_ms=None, ttft_ms=4.0, e2e_ms=e2e_ms,
        token_ms=(4.0, e2e_ms),
    )  # fmt: skip
    process = Process(
        load_s=0.1, first_ms=9.0, warmup_answers=2, timings=(timing,) * 11, memory_peak_bytes=10**8,
        memory_baseline_bytes=10**7, energy_j=None, idle_w=None, properties={"precision": "f32"},
    )  # fmt: skip
    return Measurement(
        verdict="valid", reasons=(), mode="provisional", processes=(process,), energy_source="none: no sensor"
    )


@dataclass
class Job:
    asked: WireJob
    body: bytes
    status: JobStatus = "running"
    events: list[Event] = field(default_factory=list)


class Script:
    """The service of the wire for one holder at a time, in memory.

    Attributes:
        calls: method and path of every call that came in, in order.
        before: hears each call first; may raise.
        runs: what a job does when it is submitted: its events, as name and content. A job without an end stays running.
    """

    def __init__(self) -> None:
        self.hello = HELLO
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[Asked], None] = lambda _: None
        self.runs: Callable[[WireJob], list[tuple[str, Any]]] = lambda _: [("result", asdict(measurement()))]
        self.line: list[str] = []
        self.epoch = 0
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, bytearray] = {}
        self.jobs: dict[str, Job] = {}
        self.acknowledged: list[str] = []
        self.executions = 0
        self.changed = asyncio.Event()

    def count(self, method: str, part: str) -> int:
        return sum(one == method and part in path for one, path in self.calls)

    def expire(self) -> None:
        """The holder's lease runs out, and its job with it."""
        self.line, self.epoch = [], self.epoch + 1
        for job in self.jobs.values():
            if job.status == "running":
                job.status = "cancelled"
        self.changed.set()

    def emit(self, job: Job, event: str, content: Any) -> None:
        job.events.append(Event(seq=len(job.events) + 1, event=event, content=content))  # type: ignore[arg-type]
        job.status = {"result": "done", "fault": "failed"}.get(event, job.status)  # type: ignore[assignment]
        self.changed.set()

    async def handle(self, asked: Asked, body: AsyncIterator[bytes]) -> Reply:
        self.calls.append((asked.method, asked.path))
        self.before(asked)
        kind, _, rest = asked.path.removeprefix("/v1/").partition("/")
        if kind == "hello":
            return Reply(status=200, body=dump(self.hello))
        if kind == "leases":
            return self._lease(asked.method, rest)
        fenced = asked.method in ("PUT", "PATCH", "DELETE")
        if fenced and (not self.line or asked.headers.get(EPOCH_HEADER.lower()) != str(self.epoch)):
            raise refused(409, "STALE_EPOCH", "another holds the device")
        if kind == "blobs":
            return await self._blob(asked, rest, body)
        return await self._job(asked, rest, b"".join([piece async for piece in body]))

    def _lease(self, method: str, uuid: str) -> Reply:
        if method == "DELETE":
            if uuid in self.line:
                self.epoch += self.line[0] == uuid
                self.line.remove(uuid)
            return Reply(status=204)
        if uuid not in self.line:
            self.line.append(uuid)
            self.epoch += len(self.line) == 1
        place = self.line.index(uuid)
        return Reply(status=200, body=dump(Lease(epoch=None if place else self.epoch, position=place, expires_s=5)))

    async def _blob(self, asked: Asked, digest: str, body: AsyncIterator[bytes]) -> Reply:
        if asked.method == "HEAD":
            if digest in self.blobs:
                return Reply(status=200)
            raise refused(404, "NOT_FOUND", "no", headers={OFFSET_HEADER: str(len(self.parts.get(digest, b"")))})
        part = self.parts.setdefault(digest, bytearray())
        if asked.method == "PATCH":
            if int(asked.headers[OFFSET_HEADER.lower()]) != len(part):
                raise refused(409, "WRONG_OFFSET", "no", (str(len(part)),))
            assert int(asked.headers[LENGTH_HEADER.lower()]) >= len(part) + asked.length
            async for piece in body:
                part += piece
            return Reply(status=204, headers={OFFSET_HEADER: str(len(part))})
        self.parts.pop(digest)
        if f"sha256:{hashlib.sha256(part).hexdigest()}" != digest:
            raise refused(422, "DIGEST_MISMATCH", "the bytes that came have another digest")
        self.blobs[digest] = bytes(part)
        return Reply(status=201)

    async def _job(self, asked: Asked, rest: str, body: bytes) -> Reply:
        uuid, _, verb = rest.partition("/")
        if verb == "acknowledged":
            if self.jobs.pop(uuid, None):
                self.acknowledged.append(uuid)
            return Reply(status=204)
        if asked.method == "PUT":
            return self._submit(uuid, body)
        if uuid not in self.jobs:
            raise refused(404, "NOT_FOUND", "no job has this uuid")
        job = self.jobs[uuid]
        if asked.method == "DELETE":
            job.status = "cancelled" if job.status == "running" else job.status
            return Reply(status=204)
        if verb != "events":
            return Reply(status=200, body=dump(JobState(status=job.status, last_seq=len(job.events))))
        after = int(asked.query["after"])
        if len(job.events) <= after and job.status == "running":
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), float(asked.query["wait"]))
        return Reply(status=200, body=b"".join(dump(event) + b"\n" for event in job.events[after:]))

    def _submit(self, uuid: str, body: bytes) -> Reply:
        if uuid in self.acknowledged:
            raise refused(409, "REPLAYED", "it was acknowledged")
        known = self.jobs.get(uuid)
        if known is None:
            job = parse(WireJob, body)
            files = json.loads(job.manifest)["files"].values()
            named = [f"sha256:{one['sha256']}" for one in files] + [one.image for one in job.requests]
            if missing := tuple(dict.fromkeys(digest for digest in named if digest not in self.blobs)):
                raise refused(424, "MISSING_BLOBS", "missing", missing)
            known = self.jobs[uuid] = Job(job, body)
            self.executions += 1
            for event, content in self.runs(job):
                self.emit(known, event, content)
        if known.body != body:
            raise refused(409, "CONFLICT", "another job has this uuid")
        return Reply(status=200, body=dump(JobState(status=known.status, last_seq=len(known.events))))


class Agent:
    """A running agent in a thread of its own, behind a proxy. ``do`` runs something in its event loop."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.identity: Identity = identity_in(state / "identity", "agent")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.script: Script = self.do(Script)
        self._listener: Listener = self.do(lambda: Listener(Access(state, self.identity), self.script))
        self.port: int = self.do(lambda: self._listener.start("127.0.0.1", 0))[1]

    def do(self, what: Callable[[], Any]) -> Any:
        async def call() -> Any:
            done = what()
            return await done if inspect.isawaitable(done) else done

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def token(self) -> str:
        return Tokens(self.state).mint(self.identity.fingerprint)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listener.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def known(agent: Agent, port: int, name: str = "bench") -> KnownDevice:
    return KnownDevice(
        name=name,
        address=f"127.0.0.1:{port}",
        certificate=agent.identity.pem,
        fingerprint=agent.identity.fingerprint,
        paired="2026-01-01T00:00:00+00:00",
    )


def small_bundle(folder: Path) -> Path:
    """A sealed bundle of two files that no engine would load."""
    folder.mkdir()
    (folder / "model.xml").write_text("<net/>")
    (folder / "model.bin").write_bytes(b"\0" * 1000)
    pinned: dict[str, Any] = {"prompt": Prompt(), "max_new_tokens": 8, "execution": Execution()}
    seal(folder, runtime="openvino", candidate={}, provenance={}, **pinned)
    return folder


def die(device: RemoteDevice) -> None:
    """What a killed host leaves: nothing is acknowledged, the lease is neither renewed nor given back."""
    device._lease._closed.set()
    device._lease._heart.join()
    device.connection.close()
    device._closed = True


def finish(agent: Agent) -> None:
    for job in agent.script.jobs.values():
        agent.script.emit(job, "result", asdict(measurement()))


def wait_for(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
