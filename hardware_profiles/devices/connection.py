"""Calls to one agent: TLS 1.3 to exactly the certificate that was pinned, and patience with a bad line.

Every call of the wire may be made twice without harm, so whatever the line does to one it is simply made again.
"""

import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import TypeVar

import httpx

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.certificates import Identity
from hardware_profiles.messages import JobFailed, Silent
from hardware_profiles.wire import JSON_BYTES, Code, Malformed, Problem, fault_of, parse

PATIENCE_S = 600.0
"""Of a search with a device that is silent. Chosen, not measured: a board may restart, or be moved to another socket,
and it is short beside the hours of a search."""
CONNECT_S = 10.0  # four of TCP's own tries, at 0, 1, 3 and 7 s (RFC 6298, section 2.1 and 5.5)
ANSWER_S = 30.0  # without a byte of an answer, or with no room for a byte of a request
_FIRST_DELAY_S, _MOST_DELAY_S = 0.1, 10.0
_LEAST_RATE = 16e3  # bytes a second of an answer, beyond ``ANSWER_S``: as the agent asks of us
_IDLE_S = 60.0  # that an unused connection is kept: longer than a lease goes without renewal, to spare handshakes
_PASSING: frozenset[Code] = frozenset({"INTERNAL", "RATE_LIMITED"})
_MOST_PASSING = 4  # times that such an answer is asked for again, over 1.5 s at most: what has not passed then stays
_NOT_OURS = ("UNKNOWN_CA", "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "ACCESS_DENIED")
T = TypeVar("T")


class Unreachable(Exception):
    """One call did not go through: the line, not the device, decided."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer below 400."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Patience:
    """How long a caller goes on when calls fail, with exponential backoff and full jitter; and what ends it sooner.

    The clock starts anew with each ``progress``. Jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog):
    a uniform draw between nothing and the backoff. ``queues``: whether a device that others have is waited for to the
    end; else no longer than one that is silent.
    """

    def __init__(
        self,
        name: str,
        *,
        cancel: Event,
        waiting: Callable[[str], None] = lambda _: None,
        interrupted: Callable[[str], None] = lambda _: None,
        limit_s: float = PATIENCE_S,
        queues: bool = True,
    ) -> None:
        self.name = name
        self.cancel = cancel
        self.waiting = waiting
        self._interrupted = interrupted
        self._limit_s = limit_s
        self._queues = queues
        self._since, self._tries = time.monotonic(), 0

    @property
    def left_s(self) -> float:
        """How long one more call may take; a second at least."""
        return max(1.0, self._limit_s - (time.monotonic() - self._since))

    def progress(self) -> None:
        """A call went through."""
        if self._tries > 1:
            self._interrupted(f"it did not answer for {time.monotonic() - self._since:.0f} s")
        self._since, self._tries = time.monotonic(), 0

    def queued(self, seconds: float) -> None:
        """A call went through, but others have the device: wait for so long.

        Raises:
            JobFailed: ``DEVICE_LOST`` when patience has run out.
            Cancelled: as ``pause``.
        """
        if self._queues:
            self.progress()
        elif time.monotonic() - self._since >= self._limit_s:
            raise JobFailed("DEVICE_LOST", f"{self.name} is taken by another host")
        self.pause(seconds)

    def pause(self, seconds: float) -> None:
        """Wait for so long.

        Raises:
            Cancelled: the caller's event was set, before or meanwhile.
        """
        if self.cancel.wait(seconds):
            raise Cancelled(f"the work on {self.name} was cancelled")

    def failed(self, error: Unreachable | Refused) -> None:
        """Wait before the next try.

        Raises:
            JobFailed: ``DEVICE_LOST`` when patience has run out; the fault of a refusal that does not pass.
            Cancelled: as ``pause``.
        """
        if isinstance(error, Refused) and self._tries >= _MOST_PASSING:
            raise refusal(self.name, error) from error
        spent = time.monotonic() - self._since
        if spent >= self._limit_s:
            raise Silent("DEVICE_LOST", f"{self.name} did not answer for {spent:.0f} s ({error})") from error
        if self._tries == 1:
            self.waiting(f"{self.name} does not answer ({error}); trying for {self._limit_s:.0f} s")
        backoff = min(_MOST_DELAY_S, _FIRST_DELAY_S * 2**self._tries)
        self._tries = min(self._tries + 1, 30)
        self.pause(min(random.uniform(0, backoff), max(0.0, self._limit_s - spent)))


def refusal(name: str, error: Refused) -> JobFailed:
    """What a refused call means for the job that it was made for."""
    if error.problem.code == "UNAUTHENTICATED":
        return unknown_here(name)
    return JobFailed(fault_of(error.problem.code), f"{name} refused: {error.problem.message}")


def unknown_here(name: str) -> JobFailed:
    """A device that was never paired with this host, or is no longer: it never answers before it is paired again."""
    return JobFailed("DEVICE_LOST", f"{name} does not know this host (any more); {_anew(name)}")


def _anew(name: str) -> str:
    return f"vlmfront device remove {name}, then pair it again"


def pinned(certificate: str, identity: Identity | None) -> ssl.SSLContext:
    """TLS 1.3 to the holder of exactly this certificate, wherever it is; ``identity`` is shown to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is known itself, so its holder may move to another address
    context.load_verify_locations(cadata=certificate)
    if identity:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


class Connection:
    """Calls to one agent. May be used from several threads."""

    def __init__(self, name: str, address: str, context: ssl.SSLContext) -> None:
        self.name = name
        self._client = httpx.Client(
            base_url=f"https://{address}",
            verify=context,
            trust_env=False,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "vlmfront"},
            limits=httpx.Limits(keepalive_expiry=_IDLE_S),
        )

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def once(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> Answer:
        """Make a call once. A body that comes in pieces needs a ``Content-Length`` among the headers.

        Raises:
            Unreachable: it may or may not have reached the agent.
            Refused: the agent answered with a Problem.
            JobFailed: ``DEVICE_LOST`` where the certificates do not match; ``TRANSPORT`` for an answer that is none.
        """
        timeout = httpx.Timeout(ANSWER_S, connect=min(CONNECT_S, answer_s), read=answer_s)
        try:
            with self._client.stream(method, path, content=body, headers=headers, timeout=timeout) as reply:
                came, began = bytearray(), time.monotonic()
                for piece in reply.iter_raw():
                    came += piece
                    if len(came) > JSON_BYTES:
                        raise JobFailed("TRANSPORT", f"{self.name} answered {method} {path} with more than is allowed")
                    if time.monotonic() - began > answer_s + len(came) / _LEAST_RATE:
                        raise Unreachable("its answer comes too slowly")  # never silent, and never at its end
        except httpx.TransportError as error:
            raise self._judged(error) from error
        if reply.status_code >= 400:
            raise Refused(reply.status_code, self._problem(reply.status_code, bytes(came)), reply.headers)
        return Answer(status=reply.status_code, body=bytes(came), headers=reply.headers)

    def call(
        self,
        patience: Patience,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        answer_s: float = ANSWER_S,
    ) -> Answer:
        """Make a call until it goes through or patience runs out.

        Raises:
            Refused, JobFailed, Cancelled: as ``once`` and ``Patience.failed``.
        """
        while True:
            patience.pause(0)
            try:
                most_s = min(answer_s, patience.left_s)  # or a silent device would be waited for beyond our patience
                answer = self.once(method, path, body=body, headers=headers, answer_s=most_s)
            except Unreachable as error:
                patience.failed(error)
            except Refused as error:
                if error.problem.code not in _PASSING:
                    patience.progress()
                    raise
                patience.failed(error)
            else:
                patience.progress()
                return answer

    def read(self, kind: type[T], body: bytes) -> T:
        """The message in an answer's body.

        Raises:
            JobFailed: ``TRANSPORT``, if it is none.
        """
        try:
            return parse(kind, body)
        except Malformed as error:
            raise JobFailed("TRANSPORT", f"{self.name} sent no proper answer ({error})") from None

    def _problem(self, status: int, body: bytes) -> Problem:
        if not body:  # of HEAD, which has none
            codes: dict[int, Code] = {401: "UNAUTHENTICATED", 404: "NOT_FOUND"}
            return Problem(code=codes.get(status, "INTERNAL"), message=f"status {status}")
        return self.read(Problem, body)

    def _judged(self, error: httpx.TransportError) -> Exception:
        """Whether a failed call was the line's fault, or that of certificates, which another try does not mend."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                told = f"{self.name} shows another certificate than the one it was paired with"
                return JobFailed("DEVICE_LOST", f"{told}; if it was set up anew, {_anew(self.name)}")
            if isinstance(cause, ssl.SSLError) and any(sign in (cause.reason or "") for sign in _NOT_OURS):
                return unknown_here(self.name)
            cause = cause.__cause__ or cause.__context__
        return Unreachable(str(error) or type(error).__name__)
