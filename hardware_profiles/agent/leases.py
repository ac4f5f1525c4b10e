"""Who holds the device: one lease at a time, the others wait in the order in which they came. No input or output.

A lease that is not asked for again within its TTL drops out, whether it holds the device or waits for it. So a host
that dies frees the device within the TTL, and one that hangs on the line keeps nobody waiting.

Whenever the device changes hands, the new holder gets an epoch: a number that no earlier holder had, which it must name
with everything it changes. What an earlier holder sends late is told by it (a fencing token, as in M. Kleppmann, "How
to do distributed locking", 2016). Epochs grow over restarts too, by the number of starts in their upper bits.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hardware_profiles.agent.exchange import refused
from hardware_profiles.wire import Lease

LEAST_TTL_S = 5.0
MOST_TTL_S = 120.0
MOST_LEASES = 64
_EPOCHS_A_START = 1 << 32


@dataclass
class _Asker:
    """One who holds the device or waits for it; ``epoch`` is null while it waits."""

    peer: str
    uuid: str
    expires: float
    epoch: int | None = None


class Leases:
    """The holder and those who wait. Every method may be called from any thread, and none blocks."""

    def __init__(self, start: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``start`` counts the agent's starts from 1; ``clock`` gives seconds and never goes back."""
        self._clock = clock
        self._epoch = (start - 1) * _EPOCHS_A_START
        self._line: list[_Asker] = []  # the first holds the device
        self._lock = threading.Lock()

    def ask(self, peer: str, uuid: str, ttl_s: float) -> Lease:
        """Take the device, keep it, or wait for it, for another ``ttl_s`` seconds from now.

        Raises:
            Refused: for a TTL out of range, or when too many wait.
        """
        if not LEAST_TTL_S <= ttl_s <= MOST_TTL_S:
            raise refused(400, "MALFORMED", f"ttl_s is {ttl_s:g}; take {LEAST_TTL_S:g} to {MOST_TTL_S:g} seconds.")
        with self._lock:
            self._advance()
            asker = next((one for one in self._line if (one.peer, one.uuid) == (peer, uuid)), None)
            if asker is None:
                if len(self._line) >= MOST_LEASES:
                    raise refused(429, "RATE_LIMITED", f"{MOST_LEASES} leases are taken or waited for already.")
                asker = _Asker(peer, uuid, 0.0)
                self._line.append(asker)
            asker.expires = self._clock() + ttl_s
            self._grant()
            return Lease(epoch=asker.epoch, position=self._line.index(asker), expires_s=ttl_s)

    def give_back(self, peer: str, uuid: str) -> None:
        """Leave, whether it is held, waited for, or neither."""
        with self._lock:
            self._line = [one for one in self._line if (one.peer, one.uuid) != (peer, uuid)]
            self._advance()

    def holds(self, peer: str, epoch: int) -> bool:
        """Whether this peer holds the device under this epoch now."""
        with self._lock:
            self._advance()
            return bool(self._line) and (self._line[0].peer, self._line[0].epoch) == (peer, epoch)

    def current(self) -> tuple[int | None, float | None]:
        """The holder's epoch, null where nobody holds the device; and seconds until the next lease runs out."""
        with self._lock:
            self._advance()
            if not self._line:
                return None, None
            return self._line[0].epoch, min(one.expires for one in self._line) - self._clock()

    def line(self) -> list[str]:
        """The peers, in their order: the first holds the device, the others wait."""
        with self._lock:
            self._advance()
            return [one.peer for one in self._line]

    def _advance(self) -> None:
        now = self._clock()
        self._line = [one for one in self._line if now < one.expires]
        self._grant()

    def _grant(self) -> None:
        if self._line and self._line[0].epoch is None:
            self._epoch += 1
            self._line[0].epoch = self._epoch
