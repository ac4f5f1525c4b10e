"""Who may come in: the TLS side of the agent, and ``POST /v1/pair``, the one call of a host that is not paired yet."""

import math
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hardware_profiles.agent import audit
from hardware_profiles.agent.exchange import Refused, refused
from hardware_profiles.agent.identity import NAME, Paired, Tokens
from hardware_profiles.certificates import Identity, der_of
from hardware_profiles.wire import Malformed, PairRequest, Problem, parse

MOST_WRONG = 5
MOST_DETAIL = 200  # characters of what a stranger sent
WINDOW_S = 60.0
MOST_LINES, LINE_S = 100, 60.0
"""Lines of the audit log that strangers cause in one go, and seconds until they may cause one more.

They would push the owner's own lines out of it otherwise: at this pace that takes a week, and the event loop, on which
they are written, notices nothing of it.
"""
_MOST_REMEMBERED = 1000  # wrong tries of all addresses in a window; beyond that nobody may try


class Access:
    """The agent's certificate, the hosts that it obeys, and a bound on how often a wrong token may be tried.

    Attributes:
        tls: asks a client for its certificate and checks that it has the key of it. A client without one may come as
            far as ``POST /v1/pair``; one with a certificate that was never paired fails in the handshake.
    """

    def __init__(self, state: Path, identity: Identity, now: Callable[[], float] = time.monotonic) -> None:
        self._state, self._now = state, now
        self._tokens, self._paired = Tokens(state), Paired(state)
        self._wrong: deque[tuple[float, str]] = deque()
        self._lines, self._noted, self._unsaid = float(MOST_LINES), now(), 0
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.tls.num_tickets = 0  # each connection shows its certificate anew
        self.tls.load_cert_chain(identity.certificate, identity.key)
        for host in self._paired.hosts().values():
            self.tls.load_verify_locations(cadata=host.certificate)

    def knows(self, peer: str) -> bool:
        """Whether the host with this fingerprint is paired at this moment."""
        return self._paired.knows(peer)

    def pair(self, body: bytes, address: str) -> None:
        """Pair the host that sent ``body`` from ``address``: its next handshake succeeds.

        Raises:
            Refused: 400; 401 where the token is not valid; 429 after too many such tries.
        """
        self._hold_back(address)
        try:
            asked = parse(PairRequest, body)
            if not NAME.fullmatch(asked.name):
                raise Malformed("PairRequest.name: letters, digits, dots, dashes and underscores, up to 64")
            der = der_of(asked.certificate)
        except ValueError as error:
            raise refused(400, "MALFORMED", str(error)) from None
        if not self._tokens.redeem(asked.secret):
            self._wrong.append((self._now(), address))
            self.note("wrong token", address)
            message = "the token is unknown, expired or used; make another on the device: vlmfront-agent pair"
            raise refused(401, "UNAUTHENTICATED", message)
        peer = self._paired.add(asked.name, asked.certificate)
        self.tls.load_verify_locations(cadata=der)  # nothing else that the text may hold
        audit.note(self._state, "paired", peer=address, detail=f"{asked.name} {peer}")

    def refusal(self, address: str, call: str) -> Refused:
        """What a host that is not paired hears of any other call."""
        self.note("not paired", address, call)
        return refused(401, "UNAUTHENTICATED", "this host is not paired with the device: vlmfront device add")

    def note(self, event: str, address: str, detail: str = "") -> None:
        """A line of the audit log about a stranger; or one more of those that the next line counts."""
        since, self._noted = self._noted, self._now()
        self._lines = min(MOST_LINES, self._lines + (self._noted - since) / LINE_S)
        if self._lines < 1:
            self._unsaid += 1
            return
        more = f"; {self._unsaid} lines were left out before this one" if self._unsaid else ""
        self._lines, self._unsaid = self._lines - 1, 0
        audit.note(self._state, event, peer=address, detail=f"{detail[:MOST_DETAIL]}{more}")

    def _hold_back(self, address: str) -> None:
        while self._wrong and self._wrong[0][0] <= self._now() - WINDOW_S:
            self._wrong.popleft()
        tries = [tried for tried, who in self._wrong if who == address]
        if len(tries) < MOST_WRONG and len(self._wrong) < _MOST_REMEMBERED:
            return
        self.note("rate limited", address)
        wait = math.ceil((tries or [self._wrong[0][0]])[0] + WINDOW_S - self._now())
        problem = Problem(code="RATE_LIMITED", message=f"too many wrong tokens; try again in {wait} s")
        raise Refused(429, problem, {"Retry-After": str(wait)})
