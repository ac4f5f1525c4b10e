"""An agent's door in this process, with a service of the tests' own behind it, and clients of every kind."""

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.access import Access
from hardware_profiles.agent.exchange import Asked, Reply, refused
from hardware_profiles.agent.http import Limits
from hardware_profiles.agent.identity import Paired
from hardware_profiles.agent.listener import Listener
from hardware_profiles.certificates import Identity, identity_in

AGENT = (sys.executable, "-I", "-m", "hardware_profiles.agent.cli")
PATIENT = Limits(connections=6, linger_s=0.1)
QUICK = Limits(connections=6, handshake_s=0.4, header_s=0.4, idle_s=1.2, silence_s=0.4, body_rate=1e5, linger_s=0.1)


@dataclass
class Fake:
    """A service that keeps what it was asked. ``/v1/hash`` replies with the body's digest."""

    asked: list[Asked] = field(default_factory=list)
    cut: threading.Event = field(default_factory=threading.Event)
    received: int = 0

    async def handle(self, asked: Asked, body: AsyncIterator[bytes]) -> Reply:
        self.asked.append(asked)
        if asked.path == "/v1/hash":
            digest = hashlib.sha256()
            try:
                async for part in body:
                    digest.update(part)
                    self.received += len(part)
            except ConnectionError:
                self.cut.set()
                raise
            return Reply(status=200, body=json.dumps({"sha256": digest.hexdigest()}).encode())
        if asked.path == "/v1/size":
            return Reply(status=200, headers={"Content-Length": "123456789"})
        if asked.path == "/v1/refuse":
            raise refused(409, "STALE_EPOCH", "the lease is another's", headers={"Upload-Offset": "7"})
        if asked.path == "/v1/break":
            raise RuntimeError("the service is broken")
        return Reply(status=200, body=b'{"hello":1}')


@dataclass(frozen=True, kw_only=True)
class Door:
    """A listening agent, and the identities of a host that is paired, and of one that is not."""

    state: Path
    address: tuple[str, int]
    close: Callable[[], None]
    agent: Identity
    host: Identity
    stranger: Identity
    service: Fake

    def tls(self, identity: Identity | None) -> ssl.SSLContext:
        """A client's context that accepts this agent alone and shows ``identity``."""
        context = ssl.create_default_context(cadata=self.agent.pem)
        context.check_hostname = False
        if identity:
            context.load_cert_chain(identity.certificate, identity.key)
        return context

    @contextmanager
    def connection(self, identity: Identity | None) -> Iterator[HTTPSConnection]:
        client = HTTPSConnection(*self.address, context=self.tls(identity), timeout=10)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def socket(self, identity: Identity | None) -> Iterator[ssl.SSLSocket]:
        """A connection to which anything may be written."""
        with (
            socket.create_connection(self.address, timeout=10) as plain,
            self.tls(identity).wrap_socket(plain, server_hostname=self.address[0]) as client,
        ):
            yield client

    def exchange(self, *sent: bytes, identity: Identity | None = None) -> list[tuple[int, dict[str, str], bytes]]:
        """What a paired host hears to these bytes until the agent ends the connection: status, headers, body."""
        with self.socket(identity or self.host) as client:
            for part in sent:
                client.sendall(part)
            return replies(client)

    def call(
        self, identity: Identity | None, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, str], Any]:
        """One call on a connection of its own: status, headers in lower case, and the document of the reply."""
        with self.connection(identity) as client:
            client.request(method, path, body=body)
            reply = client.getresponse()
            content = reply.read()
            headers = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, headers, json.loads(content) if content else None

    def events(self) -> list[str]:
        return [line["event"] for line in self.audit()]

    def audit(self) -> list[dict[str, str]]:
        path = self.state / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def replies(client: ssl.SSLSocket) -> list[tuple[int, dict[str, str], bytes]]:
    """Every reply until the agent ends the connection."""
    content = b""
    while part := client.recv(65536):
        content += part
    found = []
    while content:
        header, _, content = content.partition(b"\r\n\r\n")
        first, *lines = header.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        found.append((int(first.split()[1]), headers, content[:length]))
        content = content[length:]
    return found


@contextmanager
def serving(
    state: Path, *arguments: str, command: Sequence[str] = AGENT
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``vlmfront-agent serve`` as a process, and what it said when it was ready."""
    asked = [*command, "serve", "--port", "0", "--json", "--state", str(state), *arguments]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, json.loads(line)
        finally:
            process.kill()


def call(
    ready: Mapping[str, Any], state: Path, host: Identity | None, method: str, path: str, body: bytes = b""
) -> tuple[int, bytes]:
    """One call to an agent that runs as a process on this machine."""
    context = ssl.create_default_context(cafile=state / "identity" / "certificate.pem")
    context.check_hostname = False
    if host:
        context.load_cert_chain(host.certificate, host.key)
    client = HTTPSConnection(ready["host"], ready["port"], context=context, timeout=20)
    try:
        client.request(method, path, body=body)
        reply = client.getresponse()
        return reply.status, reply.read()
    finally:
        client.close()


Opened = Callable[..., Door]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens doors on one state folder, each in an event loop of its own thread; all are closed at the end."""
    running: list[Callable[[], None]] = []
    identities = {name: identity_in(tmp_path / name, name) for name in ("identity", "host", "stranger")}

    def start(*, paired: bool = True, limits: Limits = PATIENT, clock: Callable[[], float] | None = None) -> Door:
        if paired:
            Paired(tmp_path).add("host", identities["host"].pem)
        service = Fake()
        bound: Future[tuple[str, int]] = Future()
        stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def serve() -> None:
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            stops.append((loop, stop))
            access = Access(tmp_path, identities["identity"], **({"now": clock} if clock else {}))
            listener = Listener(access, service, limits)
            bound.set_result(await listener.start("127.0.0.1", 0))
            await stop.wait()
            await listener.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        address = bound.result(timeout=10)

        def stop() -> None:
            if thread.is_alive():
                loop, event = stops[0]
                loop.call_soon_threadsafe(event.set)
                thread.join(timeout=10)
            assert not thread.is_alive()

        running.append(stop)
        return Door(
            state=tmp_path,
            address=address,
            close=stop,
            agent=identities["identity"],
            host=identities["host"],
            stranger=identities["stranger"],
            service=service,
        )

    yield start
    for stop in running:
        stop()


@pytest.fixture
def door(opened: Opened) -> Door:
    """A door with one paired host."""
    return opened()
