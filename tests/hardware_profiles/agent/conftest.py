"""An agent without sockets, and the hosts that call it."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from hardware_profiles.agent.exchange import Asked, Refused, Reply
from hardware_profiles.agent.service import Service
from hardware_profiles.wire import Event, Facts, WireJob, WireRequest, build, dump

T = TypeVar("T")
FACTS = Facts(machine="x86_64", model="", cpu="a cpu", memory_bytes=1 << 30, threads=1, dtypes=("f32",))
PNG = b"\x89PNG\r\n\x1a\nrest"


def script(code: str) -> tuple[str, ...]:
    """A runner that does something instead."""
    return (sys.executable, "-I", "-c", SPEAKS + code)


SPEAKS = (
    "import json, os, signal, sys, time\n"
    "say = lambda event, **more: print(json.dumps({'event': event, **more}), flush=True)\n"
    "job = json.loads(sys.stdin.readline())\n"
    "say('phase', phase='load'); say('loaded', load_s=1.0); say('phase', phase='work')\n"
)
ANSWERS = (
    "for one in job['requests']: say('answers', answers=[{'id': one['id'], 'text': 'x', 'tokens': 1}])\n"
    "say('done', work_s=0.5, memory_peak_bytes=1)\n"
)
HANGS = "time.sleep(600)\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


@dataclass
class Host:
    """One paired host. ``epoch`` is that of its last lease."""

    service: Service
    peer: str = "a" * 64
    lease: str = field(default_factory=lambda: str(uuid4()))
    epoch: int | None = None

    async def call(
        self,
        method: str,
        path: str,
        *bodies: bytes,
        query: Mapping[str, str] | None = None,
        **headers: Any,
    ) -> Reply:
        named = {name.lower().replace("_", "-"): value for name, value in headers.items()}
        if self.epoch is not None:
            named.setdefault("lease-epoch", str(self.epoch))
        length = sum(map(len, bodies))
        asked = Asked(method=method, path=path, query=query or {}, headers=named, length=length, peer=self.peer)
        return await self.service.handle(asked, pieces(*bodies))

    async def refused(self, status: int, code: str, method: str, path: str, *bodies: bytes, **named: Any) -> Refused:
        """Expect a call to be refused like this."""
        with pytest.raises(Refused) as found:
            await self.call(method, path, *bodies, **named)
        assert (found.value.status, found.value.problem.code) == (status, code), found.value
        return found.value

    async def take(self, ttl_s: float = 60.0) -> dict[str, Any]:
        body = json.dumps({"ttl_s": ttl_s}).encode()
        lease = json.loads((await self.call("PUT", f"/v1/leases/{self.lease}", body)).body)
        self.epoch = lease["epoch"]
        return dict(lease)

    async def upload(self, *contents: bytes) -> None:
        for content in contents:
            path = f"/v1/blobs/sha256:{sha256(content)}"
            await self.call("PATCH", path, content, Upload_Offset="0", Upload_Length=str(len(content)))
            assert (await self.call("PUT", path)).status == 201

    async def submit(self, job: WireJob, uuid: str = "") -> str:
        uuid = uuid or str(uuid4())
        assert (await self.call("PUT", f"/v1/jobs/{uuid}", dump(job))).status == 201
        return uuid

    async def events(self, uuid: str, after: int = 0, wait: float = 0.0) -> list[Event]:
        query = {"after": str(after), "wait": str(wait)}
        lines = (await self.call("GET", f"/v1/jobs/{uuid}/events", query=query)).body.splitlines()
        return [build(Event, json.loads(line), "event") for line in lines]

    async def follow(self, uuid: str) -> list[Event]:
        """All events of a job, up to its last."""
        found: list[Event] = []
        while not found or found[-1].event not in ("result", "fault"):
            found += await self.events(uuid, len(found), wait=30.0)
        return found

    async def status(self, uuid: str) -> str:
        return str(json.loads((await self.call("GET", f"/v1/jobs/{uuid}")).body)["status"])

    async def until(self, uuid: str, event: str) -> None:
        """Wait until a job has such an event."""
        after = 0
        while True:
            for one in await self.events(uuid, after, wait=30.0):
                after = one.seq
                if one.event == event:
                    return


@dataclass
class Bundle:
    """A small bundle that no engine could load, with one image: what is uploaded, and the job about it."""

    files: dict[str, bytes]
    manifest: dict[str, Any]
    images: tuple[bytes, ...] = (PNG,)

    @property
    def contents(self) -> tuple[bytes, ...]:
        return (*self.files.values(), *self.images)

    def job(self, **changes: Any) -> WireJob:
        asked: dict[str, Any] = {
            "kind": "answer",
            "manifest": json.dumps(self.manifest),
            "requests": tuple(
                WireRequest(id=str(number), image=f"sha256:{sha256(image)}", question="what ?")
                for number, image in enumerate(self.images)
            ),
        }
        return WireJob(**(asked | changes))


@pytest.fixture
def bundle() -> Bundle:
    files = {"config.json": b"{}", "sub/weights.safetensors": (2).to_bytes(8, "little") + b"{}"}
    return Bundle(files=files, manifest=manifest_of(files))


def manifest_of(files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    from hardware_profiles.bundle import Execution
    from spaces.prompting import Prompt

    body = {
        "schema": "vlmfront.bundle/1",
        "runtime": "openvino",
        "files": {name: {"sha256": sha256(content), "size": len(content)} for name, content in files.items()},
        "prompt": asdict(Prompt()),
        "max_new_tokens": 8,
        "execution": asdict(Execution()),
    }
    return body | changes


@dataclass
class Agent:
    """Starts a service on one folder, again and again, and keeps what it told its audit log."""

    state: Path
    audited: list[tuple[str, str]] = field(default_factory=list)

    def run(self, test: Callable[[Service], Awaitable[T]], code: str = ANSWERS, **options: Any) -> T:
        """Run a test against a service whose runner does ``code``; the service is closed afterwards."""

        async def whole() -> T:
            service = self.start(script(code), **options)
            try:
                return await asyncio.wait_for(test(service), 60)
            finally:
                await service.close()

        return asyncio.run(whole())

    def start(self, command: tuple[str, ...], limit_bytes: int = 1 << 30) -> Service:
        return Service(
            self.state,
            facts=lambda: FACTS,
            limit_bytes=limit_bytes,
            command=command,
            audit=lambda *line: self.audited.append(line),
        )

    def heard_of(self, event: str) -> list[str]:
        return [detail for found, detail in self.audited if found == event]


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "state")
