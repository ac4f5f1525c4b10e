"""A device behind the wire: `hardware_profiles.device.Device`, made of a lease, uploads and jobs that can be found.

A job's way: acknowledge what was returned before; submit; where blobs are missing, upload them and submit again;
follow its events to the end. Wherever the line breaks, the same call is made again. Where the *job* is gone (the lease
ran out, the agent or the device restarted), it is submitted anew under another uuid, ``RESUBMITS`` times at most.

**No result is lost, none is measured or kept twice.** A job's uuid is uuid5(owner, digest of the job's content and of
its ordinal among the caller's records, n), where n counts the times that this owner asked the same; the lease's uuid is
uuid5(owner, "lease"). A result is acknowledged when the next job begins or the device is closed, so after its caller
has kept it. A host that was killed before opens the device again with the same ``owner`` (the run's id), has its lease
still or queues for it, passes over the n that were acknowledged (REPLAYED), and finds the job that is running, or its
result, under the first n that was not. What its caller had kept by then it does not ask for again, or by the next
ordinal, so that nothing hangs on whether that was acknowledged.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar
from uuid import UUID, uuid5

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.supervisor import Cancelled, Enough
from hardware_profiles.devices.connection import Answer, Connection, Patience, refusal
from hardware_profiles.devices.follow import Followed, Gone, each_once, follow
from hardware_profiles.devices.hello import check_runtime
from hardware_profiles.devices.lease import DeviceLease
from hardware_profiles.devices.loopback import LocalAgent
from hardware_profiles.devices.upload import Packed, pack, upload
from hardware_profiles.messages import Answered, JobFailed, Measurement, Mode, Request
from hardware_profiles.profile import Profile
from hardware_profiles.wire import EPOCH_HEADER, Hello, JobState, Preflight

RESUBMITS = 3
_UPLOADS = 3  # rounds of bringing what is missing: a full disk may drop what another round brought
_LONG_BYTES = 100_000_000  # the way of so much is worth a word: a second on a gigabit line
_FAREWELL_S = 10.0  # patience with the last acknowledgements and the lease when a device is closed
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class RemoteDevice:
    """One paired device, held by a lease. See `hardware_profiles.device.Device` for what its methods promise."""

    def __init__(
        self,
        *,
        name: str,
        here: bool,
        profile: Profile,
        hello: Hello,
        connection: Connection,
        lease: DeviceLease,
        owner: UUID,
        agent: LocalAgent | None = None,
        patience_s: float,
        queues: bool,
        interrupted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.here = here
        self.profile = profile
        self.hello = hello
        self.connection = connection
        self._lease = lease
        self._owner = owner
        self._agent = agent
        self._patience_s = patience_s
        self._queues = queues
        self._interrupted = interrupted
        self._asked: dict[str, int] = {}
        self._ended: list[UUID] = []
        self._closed = False

    @property
    def agent_pid(self) -> int | None:
        """Process id of the agent that was started for this device; null where its owner did."""
        return self._agent.pid if self._agent else None

    def measure(
        self,
        bundle: Path,
        requests: Sequence[Request],
        *,
        mode: Mode = "provisional",
        min_answers: int = 11,
        sustained_s: float = 0.0,
        ordinal: int = 0,
        cancel: Event,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Measurement:
        packed = pack("measure", bundle, requests, mode=mode, min_answers=min_answers, sustained_s=sustained_s)
        packed = replace(packed, content=f"{packed.content}/{ordinal}")
        return self._run(packed, self._patience(cancel, waiting)).measurement()

    def answer(
        self, bundle: Path, requests: Sequence[Request], *, cancel: Event, enough: Enough | None = None
    ) -> Answered:
        packed = pack("answer", bundle, requests)
        return self._run(packed, self._patience(cancel), enough and each_once(enough)).answered()

    def preflight(self, bundle: Path, *, cancel: Event) -> Preflight:
        return self._run(pack("preflight", bundle, ()), self._patience(cancel)).preflight()

    def upload(self, blobs: Mapping[str, Path], cancel: Event) -> None:
        """Bring files to the device, digest -> path, as a job does with those that the device lacks."""
        patience = self._patience(cancel)
        for digest, path in blobs.items():
            self._send(digest, path, patience)

    def close(self) -> None:
        """Acknowledge the last results and give the lease back, as far as the device can be reached."""
        if self._closed:
            return
        self._closed = True
        try:
            self._acknowledge(Patience(self.name, cancel=Event(), limit_s=_FAREWELL_S))
        except JobFailed as error:
            _LOG.info("%s keeps the last results: %s", self.name, error)
        self._lease.close()
        self.connection.close()
        if self._agent:
            self._agent.close()

    def _patience(self, cancel: Event, waiting: Callable[[str], None] = lambda _: None) -> Patience:
        return Patience(
            self.name,
            cancel=cancel,
            waiting=waiting,
            interrupted=self._interrupted,
            limit_s=self._patience_s,
            queues=self._queues,
        )

    def _run(self, packed: Packed, patience: Patience, enough: Enough | None = None) -> Followed:
        """The end of a job, which is submitted anew when it was lost on its way."""
        check_runtime(self.name, self.hello, packed.manifest.runtime)
        self._acknowledge(patience)
        for _ in range(1 + RESUBMITS):
            job = self._submit(packed, patience)
            try:
                return self._follow(packed, job, patience, enough)
            except Gone as reason:
                _LOG.info("job %s on %s is submitted anew: %s", job, self.name, reason)
                self._interrupted(f"it lost a job, which is submitted anew ({reason})")
                last = reason
        raise JobFailed("DEVICE_LOST", f"{self.name} lost the job {1 + RESUBMITS} times, at last because {last}")

    def _follow(self, packed: Packed, job: UUID, patience: Patience, enough: Enough | None) -> Followed:
        try:
            followed = follow(self.connection, packed, job, patience, enough)
        except Cancelled:
            self._cancel(job)
            self._end(packed, job)
            raise
        except JobFailed as fault:
            if fault.fault != "DEVICE_LOST":
                self._end(packed, job)
            raise
        except Gone:
            self._end(packed, job)
            raise
        if followed.cut_short:
            self._cancel(job)
        self._end(packed, job)
        return followed

    def _submit(self, packed: Packed, patience: Patience) -> UUID:
        """The uuid under which the device has the job now; its blobs are brought first where they are missing."""
        uploads = 0
        while True:
            job = uuid5(self._owner, f"{packed.content}/{self._asked.get(packed.content, 0)}")
            try:
                answer = self._fenced(
                    patience, partial(self._write, "PUT", f"/v1/jobs/{job}", patience, body=packed.body)
                )
            except Refused as error:
                if error.problem.code == "REPLAYED":
                    self._count(packed)
                elif error.problem.code == "MISSING_BLOBS" and uploads < _UPLOADS:
                    uploads += 1
                    self._bring(packed, error.problem.expected, patience)
                else:
                    raise refusal(self.name, error) from error
                continue
            if self.connection.read(JobState, answer.body).status != "cancelled":
                return job
            self._end(packed, job)

    def _bring(self, packed: Packed, digests: Sequence[str], patience: Patience) -> None:
        if unknown := set(digests) - set(packed.blobs):
            raise JobFailed("TRANSPORT", f"{self.name} misses {min(unknown)[:80]}, which the job does not name")
        size = sum(packed.blobs[digest].stat().st_size for digest in digests)
        if size >= _LONG_BYTES:
            patience.waiting(f"{size / 1e6:.0f} MB go to {self.name}")
        for digest in digests:
            self._send(digest, packed.blobs[digest], patience)

    def _send(self, digest: str, path: Path, patience: Patience) -> None:
        try:
            self._fenced(patience, partial(upload, self.connection, digest, path, patience))
        except Refused as error:
            raise refusal(self.name, error) from error

    def _write(self, method: str, path: str, patience: Patience, epoch: int, body: bytes = b"") -> Answer:
        return self.connection.call(patience, method, path, body=body, headers={EPOCH_HEADER: str(epoch)})

    def _fenced(self, patience: Patience, write: Callable[[int], T]) -> T:
        """Make a write under the lease's epoch; a lease that was lost is taken again, a bounded number of times."""
        for _ in range(1 + RESUBMITS):
            epoch = self._lease.epoch(patience)
            try:
                return write(epoch)
            except Refused as error:
                if error.problem.code != "STALE_EPOCH":
                    raise
                self._lease.lost(epoch)
        raise JobFailed("STALE_EPOCH", f"{self.name} gave its lease to others {1 + RESUBMITS} times while we wrote")

    def _end(self, packed: Packed, job: UUID) -> None:
        """A job is over: it is acknowledged when the next begins, and the same content asked again is another job."""
        self._ended.append(job)
        self._count(packed)

    def _count(self, packed: Packed) -> None:
        self._asked[packed.content] = self._asked.get(packed.content, 0) + 1

    def _cancel(self, job: UUID) -> None:
        """Ask the device once to stop a job; if that does not go through, the end of the lease will stop it."""
        if (epoch := self._lease.held) is None:
            return
        try:
            self._write("DELETE", f"/v1/jobs/{job}", Patience(self.name, cancel=Event(), limit_s=0), epoch)
        except (Refused, JobFailed) as error:
            _LOG.info("job %s on %s was not cancelled: %s", job, self.name, error)

    def _acknowledge(self, patience: Patience) -> None:
        """Let the device forget what our callers have kept, while it is ours: no queue is worth that.

        A job that it will not let go is tried again next time.
        """
        for job in tuple(self._ended):
            for _ in range(2):
                if (epoch := self._lease.held) is None:
                    return
                try:
                    self._write("PUT", f"/v1/jobs/{job}/acknowledged", patience, epoch)
                except Refused as error:
                    if error.problem.code == "STALE_EPOCH":  # as after an agent's restart
                        self._lease.again(epoch)
                        continue
                    if error.problem.code not in ("NOT_FOUND", "REPLAYED"):
                        _LOG.info("job %s on %s was not acknowledged: %s", job, self.name, error)
                        break
                self._ended.remove(job)
                break
