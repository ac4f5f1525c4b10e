"""The agent's side of one connection: HTTP/1.1 for paired hosts, ``POST /v1/pair`` for anyone else.

Whether the client is paired is asked anew at each request. Bodies have a ``Content-Length``, never a transfer coding,
so there is one way to read where a request ends. What a call does is the service's.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol
from urllib.parse import parse_qsl

import h11

from hardware_profiles.agent.access import Access
from hardware_profiles.agent.exchange import Asked, Refused, Reply, refused
from hardware_profiles.agent.tls import TLSStream
from hardware_profiles.certificates import fingerprint
from hardware_profiles.store import DISK_ERRORS
from hardware_profiles.wire import CHUNK_BYTES, JSON_BYTES, dump

HEADER_BYTES = 16 << 10
PAIR_BYTES = 64 << 10
_MOST_FIELDS = 16  # of a query
_WITH_BODY = ("POST", "PUT", "PATCH")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may take, in seconds unless said otherwise.

    Attributes:
        connections: how many at once.
        handshake_s: for TLS.
        header_s: for a request's header, from its first byte; a stranger has as long to begin.
        idle_s: that a paired host may keep a connection without asking anything.
        silence_s: between two pieces of a body, and for a reply to be taken.
        body_rate: bytes a second that a body must reach on average, beyond ``silence_s``.
        linger_s: that what a refused client still sends is read and dropped, so that it can read why.
    """

    connections: int = 32
    handshake_s: float = 10.0
    header_s: float = 10.0
    idle_s: float = 90.0
    silence_s: float = 30.0
    body_rate: float = 16e3
    linger_s: float = 2.0


class Handler(Protocol):
    """What answers the calls of paired hosts; see :mod:`hardware_profiles.agent.service`."""

    async def handle(self, asked: Asked, body: AsyncIterator[bytes]) -> Reply: ...


class Connection:
    """One client's requests, one after another. Whatever takes too long ends in an abort, which every wait notices.

    Attributes:
        known: whether its latest request came from a paired host.
    """

    def __init__(self, stream: TLSStream, address: str, access: Access, handler: Handler, limits: Limits) -> None:
        self._stream, self._address, self._access = stream, address, access
        self._handler, self._limits = handler, limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._peer = ""
        self.known = False

    async def run(self) -> None:
        """Serve requests until either side has had enough; then let the client read the last reply before it ends.

        Raises:
            OSError: the client is gone, or was too slow.
        """
        if await self._opened():
            while await self._exchange():
                self._http.start_next_cycle()
            if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
                await self._linger()
            with self._within(self._limits.silence_s):
                await self._stream.close()

    async def _opened(self) -> bool:
        with self._within(self._limits.handshake_s):
            try:
                certificate = await self._stream.handshake()
            except OSError as error:
                self._access.note("no handshake", self._address, getattr(error, "reason", None) or str(error))
                await self._linger()
                return False
        self._peer = fingerprint(certificate) if certificate else ""
        return True

    async def _linger(self) -> None:
        with self._within(self._limits.linger_s):
            await self._stream.discard()

    async def _exchange(self) -> bool:
        """Read a request and reply to it; whether another may follow."""
        head = False
        try:
            request = await self._request()
            if request is None:
                return False
            head = request.method == b"HEAD"
            asked = self._admit(request)
        except h11.RemoteProtocolError as error:
            await self._reply(refused(error.error_status_hint, "MALFORMED", str(error)), head=head, close=True)
            return False
        except Refused as refusal:
            await self._reply(refusal, head=head, close=True)
            return False
        reply = await self._answer(asked)
        close = not self.known or self._http.they_are_waiting_for_100_continue
        await self._reply(reply, head=head, close=close)
        if close:
            return False
        async for _ in self._body(asked.length):
            pass  # what the service had no use for
        return self._http.our_state is h11.DONE

    async def _request(self) -> h11.Request | None:
        """The next request's header; null where the client ends the connection instead."""
        until = self._loop.time() + (self._limits.idle_s if self.known else self._limits.header_s)
        begun = False
        while (event := self._http.next_event()) is h11.NEED_DATA:
            await self._feed(until - self._loop.time())
            if not begun:
                begun, until = True, self._loop.time() + self._limits.header_s
        return event if isinstance(event, h11.Request) else None

    def _admit(self, request: h11.Request) -> Asked:
        """What is asked, where this client may ask it, and with so long a body.

        Raises:
            Refused: 400, 401, 411, 413 or 431.
        """
        asked = _asked(request, self._peer)
        self.known = self._access.knows(self._peer)
        if _is_pairing(asked):
            most = PAIR_BYTES
        elif self.known:
            most = CHUNK_BYTES if asked.method == "PATCH" else JSON_BYTES
        else:
            raise self._access.refusal(self._address, f"{asked.method} {asked.path}")
        if asked.length > most:
            raise refused(413, "OVER_LENGTH", f"a body of {asked.method} has at most {most} bytes")
        return asked

    async def _answer(self, asked: Asked) -> Reply | Refused:
        async with aclosing(self._body(asked.length)) as body:
            try:
                if _is_pairing(asked):
                    self._access.pair(b"".join([part async for part in body]), self._address)
                    return Reply(status=204)
                return await self._handler.handle(asked, body)
            except Refused as refusal:
                return refusal
            except Exception as error:
                if self._http.their_state is h11.ERROR:
                    raise  # the body was cut: there is nobody to reply to
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    return refused(507, "NO_SPACE", f"the device cannot write ({error.strerror})")
                _LOG.exception("%s %s failed", asked.method, asked.path)
                return refused(500, "INTERNAL", "the agent failed; its log says why")

    async def _body(self, length: int) -> AsyncGenerator[bytes, None]:
        """The pieces of a request's body as they come.

        Raises:
            ConnectionError: the client is gone, or too slow, before all of it came.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        until = self._loop.time() + self._limits.silence_s + length / self._limits.body_rate
        try:
            while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield event.data
                elif event is h11.NEED_DATA:
                    await self._feed(min(self._limits.silence_s, until - self._loop.time()))
                else:
                    return
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(str(error)) from None

    async def _reply(self, reply: Reply | Refused, *, head: bool, close: bool) -> None:
        body = dump(reply.problem) if isinstance(reply, Refused) else reply.body
        headers = {"date": formatdate(usegmt=True)}  # RFC 9110, 6.6.1; a host sees by it how far the clocks are apart
        if body:
            headers["content-type"] = "application/json"
        if reply.status != 204:
            headers["content-length"] = str(len(body))
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        if close:
            headers["connection"] = "close"
        sent = self._http.send(h11.Response(status_code=reply.status, headers=list(headers.items())))
        if body and not head:
            sent += self._http.send(h11.Data(data=body))
        await self._send(sent + (self._http.send(h11.EndOfMessage()) or b""))

    async def _send(self, content: bytes) -> None:
        with self._within(self._limits.silence_s + len(content) / self._limits.body_rate):
            await self._stream.write(content)

    async def _feed(self, seconds: float) -> None:
        with self._within(seconds):
            self._http.receive_data(await self._stream.read())

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Abort the connection if the body takes longer. A timer is far cheaper than a task for each read."""
        timer = self._loop.call_later(max(seconds, 0.0), self._stream.abort)
        try:
            yield
        finally:
            timer.cancel()


def _asked(request: h11.Request, peer: str) -> Asked:
    """The values of a request's header, whose framing must leave no doubt where its body ends (RFC 9112, 6.3)."""
    if sum(len(name) + len(value) for name, value in request.headers) + len(request.target) > HEADER_BYTES:
        raise refused(431, "MALFORMED", f"a header has at most {HEADER_BYTES} bytes")
    method, target = request.method.decode("ascii"), request.target.decode("ascii")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        text = value.decode("latin-1")
        key = name.decode("ascii")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    if "transfer-encoding" in headers or (method in _WITH_BODY and "content-length" not in headers):
        raise refused(411, "MALFORMED", "a body has a Content-Length and no transfer coding")
    path, _, query = target.partition("?")
    try:
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise refused(400, "MALFORMED", f"the query cannot be read ({error})") from None
    if not path.startswith("/"):
        raise refused(400, "MALFORMED", "the target of a request is a path")
    length = int(headers.get("content-length", "0"))
    return Asked(method=method, path=path, query=fields, headers=headers, length=length, peer=peer)


def _is_pairing(asked: Asked) -> bool:
    return asked.method == "POST" and asked.path == "/v1/pair"
