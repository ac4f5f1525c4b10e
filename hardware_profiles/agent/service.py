"""What each call of the wire does, without any socket: who may ask, what is kept, and what is replied.

Everything that blocks is done in threads, so that the event loop is free to hear renewals of leases at any moment, and
has nothing to do while a runner measures.
"""

import asyncio
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from hardware_profiles.agent.blobs import Blobs
from hardware_profiles.agent.call import Call, message
from hardware_profiles.agent.exchange import Asked, Reply, refused
from hardware_profiles.agent.facts import boot_id
from hardware_profiles.agent.hello import hello
from hardware_profiles.agent.jobs import Jobs, Record
from hardware_profiles.agent.layout import lay_out
from hardware_profiles.agent.leases import Leases
from hardware_profiles.agent.state import count_start
from hardware_profiles.agent.status import note_line
from hardware_profiles.agent.supervisor import RUNNER
from hardware_profiles.agent.worker import Worker
from hardware_profiles.messages import encode
from hardware_profiles.wire import LENGTH_HEADER, OFFSET_HEADER, Event, Facts, JobState, LeaseRequest, WireJob, dump
from spaces.errors import BadInput

WRITE_BYTES = 1 << 20  # of a blob, written and hashed in one go
EVENTS_BYTES = 4 << 20  # of one reply with events, about; the rest is asked for anew
_JSON = {"Content-Type": "application/json"}
_LINES = {"Content-Type": "application/x-ndjson"}

Audit: TypeAlias = Callable[[str, str], None]
"""Is told of what an owner may ask about afterwards: what happened, and to what. Called from any thread."""


class Service:
    """One agent's state and work. ``handle`` and ``close`` belong to one event loop."""

    def __init__(
        self,
        state: Path,
        *,
        facts: Callable[[], Facts],
        limit_bytes: int,
        command: Sequence[str] = RUNNER,
        audit: Audit = lambda _event, _detail: None,
    ) -> None:
        """Recovers what an earlier agent left in the folder ``state``. ``limit_bytes`` is for blobs.

        Raises:
            BadInput: the folder is not one of an agent.
        """
        state.mkdir(parents=True, exist_ok=True)
        self._state = state
        self._facts = facts
        self._audit = audit
        self._leases = Leases(count_start(state / "epoch"))
        self._blobs = Blobs(state / "blobs", limit_bytes=limit_bytes, needed=lambda: self._jobs.needed_blobs())
        self._jobs = Jobs(state, boot_id=boot_id(), remove_images=self._remove_images, audit=audit)
        self._worker = Worker(state, self._jobs, self._blobs, boot_id=boot_id(), command=command, audit=audit)
        self._sweep(time.time_ns())
        self._epoch: int | None = None
        self._line: list[str] = []
        self._noting = threading.Lock()
        self._note_line()
        self._submitting = asyncio.Lock()
        self._news = asyncio.Event()  # set, and replaced, whenever a job changes
        self._next: asyncio.TimerHandle | None = None

    async def handle(self, asked: Asked, body: AsyncIterator[bytes]) -> Reply:
        """Answer a call whose sender is known.

        Raises:
            Refused: with a status of 400 or above.
            Exception: whatever ``body`` raises; what had come of a blob stays.
        """
        loop = asyncio.get_running_loop()
        self._jobs.changed = lambda: self._changed(loop)
        for pattern, methods in _ROUTES:
            if found := pattern.fullmatch(asked.path):
                if asked.method not in methods:
                    known = ", ".join(methods)
                    raise refused(405, "UNSUPPORTED", f"{asked.path[:90]} takes {known}.", headers={"Allow": known})
                return await methods[asked.method](self, Call(asked=asked, body=body, name="".join(found.groups())))
        raise refused(404, "NOT_FOUND", f"there is no {asked.path[:90]!r}.")

    async def close(self) -> None:
        """Stop the runner, and every job with it."""
        if self._next is not None:
            self._next.cancel()
        await asyncio.to_thread(self._worker.close)

    async def _hello(self, _call: Call) -> Reply:
        made = await asyncio.to_thread(lambda: hello(self._state, self._facts(), self._blobs.free_bytes()))
        return Reply(status=200, body=dump(made), headers=_JSON)

    async def _take_lease(self, call: Call) -> Reply:
        wish = message(LeaseRequest, await call.whole_body())
        lease = self._leases.ask(call.asked.peer, call.uuid, wish.ttl_s)
        self._follow_lease()
        return Reply(status=200, body=dump(lease), headers=_JSON)

    async def _give_lease_back(self, call: Call) -> Reply:
        self._leases.give_back(call.asked.peer, call.uuid)
        self._follow_lease()
        return Reply(status=204)

    def _follow_lease(self) -> None:
        """Tell the worker who holds the device, and look again when the next lease runs out."""
        epoch, left_s = self._leases.current()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if left_s is not None:
            self._next = asyncio.get_running_loop().call_later(left_s, self._follow_lease)
        if (line := self._leases.line()) != self._line:
            self._line = line
            asyncio.get_running_loop().run_in_executor(None, self._note_line)
        if epoch != self._epoch:
            self._epoch = epoch
            self._blobs.release()
            self._worker.hold(epoch)
            asyncio.get_running_loop().run_in_executor(None, self._sweep, time.time_ns())

    def _note_line(self) -> None:
        with self._noting:  # whoever comes last writes what holds then
            note_line(self._state, self._leases.line())

    async def _check_epoch(self, call: Call) -> None:
        if not self._leases.holds(call.asked.peer, call.epoch):
            asked = call.asked
            detail = f"{asked.method} {asked.path} of {asked.peer[:16]} under epoch {call.epoch}"
            await asyncio.to_thread(self._audit, "stale epoch", detail)
            raise refused(409, "STALE_EPOCH", f"epoch {call.epoch} does not hold the device; take a lease.")

    async def _find_blob(self, call: Call) -> Reply:
        size = await asyncio.to_thread(self._blobs.size, call.sha)
        if size is not None:
            return Reply(status=200, headers={"Content-Length": str(size)})
        end = await asyncio.to_thread(self._blobs.offset, call.sha)
        raise refused(404, "NOT_FOUND", "the blob is not whole.", headers={OFFSET_HEADER: str(end)})

    async def _grow_blob(self, call: Call) -> Reply:
        await self._check_epoch(call)
        sha, offset, length = call.sha, call.header(OFFSET_HEADER), call.header(LENGTH_HEADER)
        await asyncio.to_thread(self._blobs.begin, sha, offset, call.asked.length, length)
        waiting = bytearray()

        async def write() -> None:
            nonlocal offset
            content = bytes(waiting)
            waiting.clear()
            await self._check_epoch(call)
            offset = await asyncio.to_thread(self._blobs.append, sha, offset, content)

        try:
            async for chunk in call.body:
                waiting += chunk
                if len(waiting) >= WRITE_BYTES:
                    await write()
        finally:
            if waiting:
                await write()
        return Reply(status=204, headers={OFFSET_HEADER: str(offset)})

    async def _finish_blob(self, call: Call) -> Reply:
        await self._check_epoch(call)
        made = await asyncio.to_thread(self._blobs.finish, call.sha)
        return Reply(status=201 if made else 200)

    async def _submit(self, call: Call) -> Reply:
        await self._check_epoch(call)
        wish, digest = await asyncio.to_thread(_wish, await call.whole_body())
        uuid, peer = call.uuid, call.asked.peer
        async with self._submitting:
            known = self._jobs.known(uuid)
            if known == "acknowledged":
                await asyncio.to_thread(self._audit, "job replayed", f"job {uuid} of {peer[:16]}")
                raise refused(409, "REPLAYED", f"the job {uuid} was acknowledged already.")
            if known == "kept":
                record = self._jobs[uuid]
                if (record.peer, record.digest) != (peer, digest):
                    raise refused(409, "CONFLICT", f"the job {uuid} is another one.")
                return _state(200, record.state)
            if self._worker.quarantined:
                raise refused(503, "QUARANTINED", f"{self._worker.quarantined}; restart the device.")
            record = Record(uuid=uuid, peer=peer, epoch=call.epoch, digest=digest)
            await asyncio.to_thread(self._take_in, record, wish)
        self._worker.submitted()
        return _state(201, JobState(status="queued", last_seq=0))

    def _take_in(self, record: Record, wish: WireJob) -> None:
        folder = self._jobs.folder(record.uuid)
        try:
            record.order = lay_out(folder, wish, self._blobs)
            self._jobs.submit(record)
        except BadInput as error:
            raise refused(422, "INVALID_INPUT", str(error)) from None
        except OSError as error:
            raise refused(507, "NO_SPACE", f"the job cannot be laid out ({error.strerror}).") from None
        finally:
            if self._jobs.known(record.uuid) == "new":
                shutil.rmtree(folder, ignore_errors=True)

    async def _job(self, call: Call) -> Reply:
        return _state(200, self._own(call).state)

    async def _cancel(self, call: Call) -> Reply:
        await self._check_epoch(call)
        await asyncio.to_thread(self._worker.cancel, self._own(call).uuid)
        return Reply(status=204)

    async def _events(self, call: Call) -> Reply:
        record, after, loop = self._own(call), call.after, asyncio.get_running_loop()
        end = loop.time() + call.wait_s
        while len(record.events) <= after and not record.over and loop.time() < end:
            news = loop.create_task(self._news.wait())
            try:
                await asyncio.wait({news}, timeout=end - loop.time())
            finally:
                news.cancel()
        return Reply(status=200, body=_lines(record.events[after:]), headers=_LINES)

    async def _acknowledge(self, call: Call) -> Reply:
        await self._check_epoch(call)
        if self._jobs.known(call.uuid) == "acknowledged":
            return Reply(status=204)
        if not self._own(call).over:
            raise refused(409, "CONFLICT", f"the job {call.uuid} is not over.")
        await asyncio.to_thread(self._jobs.acknowledge, call.uuid)
        return Reply(status=204)

    def _sweep(self, before_ns: int) -> None:
        """Remove images that came for a job which was never submitted, and those within bundles."""
        self._remove_images(self._blobs.idle_images(before_ns))

    def _remove_images(self, images: set[str]) -> None:
        for sha in sorted(images):
            if self._blobs.remove(sha):
                self._audit("image deleted", sha)

    def _own(self, call: Call) -> Record:
        """The job that a call names, where the same host submitted it."""
        with suppress(KeyError):
            record = self._jobs[call.uuid]
            if record.peer == call.asked.peer:
                return record
        raise refused(404, "NOT_FOUND", f"there is no job {call.uuid}.")

    def _changed(self, loop: asyncio.AbstractEventLoop) -> None:
        """A job changed. Called from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _wish(body: bytes) -> tuple[WireJob, str]:
    """The job in a body, and the digest by which it is known again."""
    wish = message(WireJob, body)
    return wish, hashlib.sha256(encode(wish).encode()).hexdigest()


def _state(status: int, state: JobState) -> Reply:
    return Reply(status=status, body=dump(state), headers=_JSON)


def _lines(events: Sequence[Event]) -> bytes:
    lines, size = [], 0
    for event in events:
        lines.append(json.dumps(asdict(event), separators=(",", ":")).encode() + b"\n")
        size += len(lines[-1])
        if size > EVENTS_BYTES:
            break
    return b"".join(lines)


_ROUTES: tuple[tuple[re.Pattern[str], dict[str, Callable[[Service, Call], Awaitable[Reply]]]], ...] = (
    (re.compile(r"/v1/hello"), {"GET": Service._hello}),
    (re.compile(r"/v1/leases/([^/]+)"), {"PUT": Service._take_lease, "DELETE": Service._give_lease_back}),
    (
        re.compile(r"/v1/blobs/([^/]+)"),
        {"HEAD": Service._find_blob, "PATCH": Service._grow_blob, "PUT": Service._finish_blob},
    ),
    (re.compile(r"/v1/jobs/([^/]+)"), {"PUT": Service._submit, "GET": Service._job, "DELETE": Service._cancel}),
    (re.compile(r"/v1/jobs/([^/]+)/events"), {"GET": Service._events}),
    (re.compile(r"/v1/jobs/([^/]+)/acknowledged"), {"PUT": Service._acknowledge}),
)
