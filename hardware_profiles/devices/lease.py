"""The right to measure on a device: taken, renewed by a thread of its own, and taken again where it was lost."""

import logging
import threading
from contextlib import suppress
from uuid import UUID

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.devices.connection import Connection, Patience, Unreachable, refusal
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import Lease, LeaseRequest, dump

TTL_S = 30.0
"""How long the device stays ours when nothing is heard of us: a partition that is longer costs the job at work."""
_QUEUE_S = 2.0  # between looks at our place in the queue
_LOG = logging.getLogger(__name__)


class DeviceLease:
    """The lease of one host process on one device. ``epoch`` and ``lost`` may be called from any thread."""

    def __init__(self, connection: Connection, lease_id: UUID, ttl_s: float = TTL_S) -> None:
        self._connection = connection
        self._path = f"/v1/leases/{lease_id}"
        self._body = dump(LeaseRequest(ttl_s=ttl_s))
        self._every_s = ttl_s / 3
        self._asking = threading.Lock()
        self._held: Lease | None = None
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {connection.name}", daemon=True)

    @property
    def held(self) -> int | None:
        """The epoch under which the device is ours, as far as we know; null where it is not."""
        held = self._held  # which another thread may change meanwhile
        return held.epoch if held else None

    def epoch(self, patience: Patience) -> int:
        """The epoch that writes name. Waits in the queue while others are before us, as far as ``patience`` goes.

        Raises:
            JobFailed, Cancelled: as `hardware_profiles.devices.connection.Connection.call`.
        """
        told = 0
        while True:
            patience.pause(0)
            if (epoch := self.held) is not None:
                return epoch
            try:
                asked = self._ask()
            except Unreachable as error:
                patience.failed(error)
                continue
            except Refused as error:
                raise refusal(self._connection.name, error) from error
            if not self._heart.is_alive():
                self._heart.start()
            if asked.epoch is not None:
                patience.progress()
                continue
            if asked.position != told:
                patience.waiting(f"{self._connection.name} is taken; place {asked.position} in its queue")
                told = asked.position
            patience.queued(min(_QUEUE_S, self._every_s))

    def lost(self, epoch: int) -> None:
        """The device refused this epoch: it has given the lease to another since, or restarted."""
        _LOG.info("STALE_EPOCH: %s no longer takes epoch %d", self._connection.name, epoch)
        with self._asking:
            if self._held and self._held.epoch == epoch:
                self._held = None

    def again(self, epoch: int) -> None:
        """Take the device again if it gives itself at once, in place of an epoch that was `lost`."""
        self.lost(epoch)
        with suppress(Unreachable, Refused, JobFailed):
            self._ask()

    def close(self) -> None:
        """Stop renewing, and give the lease back if the device can be reached."""
        self._closed.set()
        if self._heart.is_alive():
            self._heart.join()
        if self._held is not None:
            try:
                self._connection.once("DELETE", self._path, answer_s=self._every_s)
            except (Unreachable, Refused, JobFailed) as error:
                _LOG.info("the lease of %s was not given back: %s", self._connection.name, error)

    def _ask(self) -> Lease:
        with self._asking:
            answer = self._connection.once("PUT", self._path, body=self._body, answer_s=self._every_s)
            before, self._held = self._held, self._connection.read(Lease, answer.body)
            if before and before.epoch not in (None, self._held.epoch):
                _LOG.info("the lease of %s had run out; its epoch is now %s", self._connection.name, self._held.epoch)
            return self._held

    def _beat(self) -> None:
        wait_s = self._every_s
        while not self._closed.wait(wait_s):
            try:
                self._ask()
                wait_s = self._every_s
            except (Unreachable, Refused, JobFailed) as error:
                _LOG.info("the lease of %s was not renewed: %s", self._connection.name, error)
                wait_s = self._every_s / 3
