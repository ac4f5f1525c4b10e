"""The agent's jobs: what was asked, how far it is, what came of it; kept until the host has said that it has it.

``journal.jsonl`` has one fsynced line for each change that must survive: a job was submitted, ended, or acknowledged.
That it runs need not: whatever had not ended when the agent starts anew is lost, and says so. ``jobs/<uuid>/`` has the
job's files and ``events.jsonl``, which is fsynced with the last event alone, so that measuring is not disturbed.

A job's files are there for as long as the lease lasts under which it was submitted, at most until it is acknowledged;
its events until it is acknowledged; that its uuid was used, for ``MOST_FORGOTTEN`` further jobs.
"""

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.agent.exchange import Refused, refused
from hardware_profiles.agent.layout import BUNDLE, IMAGES, Order, images_of
from hardware_profiles.held import remove
from hardware_profiles.store import append, write_atomic
from hardware_profiles.wire import UUID, Event, JobState, JobStatus, build

MOST_FORGOTTEN = 1 << 14
MOST_KEPT = 256  # jobs that nobody has acknowledged
JOURNAL_BYTES = 8 << 20  # after which the journal is written anew
_OVER = ("done", "failed", "cancelled")
_LAST = ("result", "fault")


@dataclass
class Record:
    """One job. ``digest``: of what was asked. ``order`` is null once its files are gone."""

    uuid: str
    peer: str
    epoch: int
    digest: str
    status: JobStatus = "queued"
    order: Order | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.status in _OVER or (bool(self.events) and self.events[-1].event in _LAST)

    @property
    def state(self) -> JobState:
        return JobState(status=self.status, last_seq=len(self.events))


@dataclass
class Ledger:
    """What the lines of a journal amount to. No input or output."""

    boot_id: str = ""
    jobs: dict[str, Record] = field(default_factory=dict)
    forgotten: dict[str, None] = field(default_factory=dict)  # in the order in which they were acknowledged

    def apply(self, change: Mapping[str, Any]) -> None:
        """Take a line in.

        Raises:
            KeyError, TypeError, ValueError: it is none of ours.
        """
        kind = change["change"]
        if kind == "started":
            self.boot_id = str(change["boot_id"])
        elif kind == "submitted" and UUID.fullmatch(change["uuid"]):  # a job's folder is called so
            record = Record(**{name: change[name] for name in ("uuid", "peer", "epoch", "digest")})
            self.jobs[record.uuid] = record
        elif kind == "ended":
            self.jobs[change["uuid"]].status = build(JobStatus, change["status"], "status")
        elif kind == "acknowledged":
            for uuid in change["uuids"]:
                self.jobs.pop(uuid, None)
                self.forgotten[uuid] = None
            for uuid in list(self.forgotten)[: max(0, len(self.forgotten) - MOST_FORGOTTEN)]:
                del self.forgotten[uuid]
        else:
            raise ValueError(f"the change {kind!r} is none of ours")

    def changes(self) -> Iterable[dict[str, Any]]:
        """The fewest lines that amount to this."""
        yield {"change": "started", "boot_id": self.boot_id}
        yield {"change": "acknowledged", "uuids": list(self.forgotten)}
        for one in self.jobs.values():
            yield _submitted(one)
            if one.over:
                yield {"change": "ended", "uuid": one.uuid, "status": one.status}


class Jobs:
    """The jobs in one folder. Every method may be called from any thread; those that change something block."""

    def __init__(
        self,
        state: Path,
        *,
        boot_id: str,
        remove_images: Callable[[set[str]], None],
        audit: Callable[[str, str], None],
    ) -> None:
        """Reads the journal of an agent that may have died at any moment; jobs that it had not ended are lost.

        ``remove_images`` is told the digests of images that no job needs any more, before their job's links to them go.
        """
        self._journal, self._root = state / "journal.jsonl", state / "jobs"
        self._remove_images = remove_images
        self._audit = audit
        self._lock = threading.RLock()
        self.changed: Callable[[], None] = lambda: None  # called after every event and change of a job's status
        self._root.mkdir(parents=True, exist_ok=True)
        self._ledger = read_journal(self._journal, audit)
        lost = "the agent restarted" if self._ledger.boot_id in ("", boot_id) else "the device restarted"
        self._ledger.boot_id = boot_id
        remove_images(set().union(*(images_of(folder) for folder in self._root.iterdir())))
        for folder in self._root.iterdir():
            if folder.name not in self._ledger.jobs or not folder.is_dir():
                remove(folder)
        for record in self._ledger.jobs.values():
            self._recover(record, f"{lost} before the job ended")
        self._compact()

    def __getitem__(self, uuid: str) -> Record:
        """The job of this uuid.

        Raises:
            KeyError: there is none, or it was acknowledged.
        """
        return self._ledger.jobs[uuid]

    def folder(self, uuid: str) -> Path:
        return self._root / uuid

    def known(self, uuid: str) -> Literal["new", "kept", "acknowledged"]:
        if uuid in self._ledger.forgotten:
            return "acknowledged"
        return "kept" if uuid in self._ledger.jobs else "new"

    def queued(self) -> list[Record]:
        """The jobs that have not begun, in the order in which they came."""
        with self._lock:
            return [one for one in self._ledger.jobs.values() if one.status == "queued"]

    def unneeded(self, epoch: int | None) -> list[Record]:
        """The jobs that still have their files, though the lease under which they came is over, and they too."""
        with self._lock:
            return [one for one in self._ledger.jobs.values() if one.over and one.order and one.epoch != epoch]

    def needed_blobs(self) -> set[str]:
        """The blobs of all jobs that have their files."""
        with self._lock:
            return set().union(*(one.order.blobs for one in self._ledger.jobs.values() if one.order))

    def submit(self, record: Record) -> None:
        """Take a job in. Past ``MOST_KEPT``, the oldest that is over makes room, of the host that has the most here.

        Raises:
            Refused: there is no room for it in the table, or none on the disk.
        """
        with self._lock:
            if len(self._ledger.jobs) >= MOST_KEPT:
                kept = [*self._ledger.jobs.values(), record]
                most = Counter(one.peer for one in reversed(kept)).most_common(1)[0][0]  # of equal ones, its own
                oldest = next((one for one in kept if one.over and one.peer == most), None)
                if oldest is None:
                    raise refused(507, "NO_SPACE", f"{MOST_KEPT} jobs wait already.")
                self._audit("result dropped", f"job {oldest.uuid} of {oldest.peer[:16]}: nobody acknowledged it")
                self.acknowledge(oldest.uuid)
            self._append(_submitted(record))
            self._ledger.jobs[record.uuid] = record

    def start(self, uuid: str) -> bool:
        """Turn a queued job into a running one; false where it was cancelled meanwhile."""
        with self._lock:
            record = self._ledger.jobs.get(uuid)
            if record is None or record.status != "queued":
                return False
            record.status = "running"
        self.changed()
        return True

    def emit(self, uuid: str, event: str, content: Mapping[str, Any]) -> None:
        """Add an event to a job that is not over."""
        with self._lock:
            record = self._ledger.jobs[uuid]
            if not record.over:
                self._emit(record, event, content)
        self.changed()

    def end(self, uuid: str, status: JobStatus, event: str = "", content: Mapping[str, Any] | None = None) -> None:
        """End a job, unless it is over, with its last event if it has one."""
        with self._lock:
            record = self._ledger.jobs.get(uuid)
            if record is None or record.over:
                return
            try:
                if event:
                    self._emit(record, event, content or {})
                self._append({"change": "ended", "uuid": uuid, "status": status})
            except (OSError, Refused) as error:
                self._audit("not kept", f"the end of job {uuid} cannot be written: {error}")
            record.status = status
        self.changed()

    def acknowledge(self, uuid: str) -> None:
        """Forget a job but for its uuid.

        Raises:
            Refused: the disk is full.
        """
        with self._lock:
            self._append({"change": "acknowledged", "uuids": [uuid]})
            self.drop_files(uuid)
            self._ledger.apply({"change": "acknowledged", "uuids": [uuid]})
            shutil.rmtree(self.folder(uuid), ignore_errors=True)
            if self._journal.stat().st_size > JOURNAL_BYTES:
                self._compact()

    def drop_files(self, uuid: str) -> None:
        """Remove a job's bundle and images, if it is still known."""
        with self._lock:
            if record := self._ledger.jobs.get(uuid):
                record.order = None
                self._remove_images(images_of(self.folder(uuid)) - self.needed_blobs())
                for name in (BUNDLE, IMAGES):
                    shutil.rmtree(self.folder(uuid) / name, ignore_errors=True)

    def _append(self, change: Mapping[str, Any]) -> None:
        try:
            append(self._journal, json.dumps(change, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise refused(507, "NO_SPACE", f"the device cannot write its journal ({error.strerror}).") from None

    def _compact(self) -> None:
        lines = (json.dumps(change, separators=(",", ":")) + "\n" for change in self._ledger.changes())
        write_atomic(self._journal, "".join(lines))

    def _emit(self, record: Record, event: str, content: Mapping[str, Any]) -> None:
        made = build(Event, {"seq": len(record.events) + 1, "event": event, "content": content}, "event")
        line = json.dumps(asdict(made), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        path = self.folder(record.uuid) / "events.jsonl"
        path.parent.mkdir(exist_ok=True)
        write = append if event in _LAST else _add
        try:
            write(path, line)
        finally:  # a full disk must not keep an event from a host that asks now
            record.events.append(made)

    def _recover(self, record: Record, lost: str) -> None:
        """Read a job's events; one without its last event is lost. What was left of its files goes."""
        path = self.folder(record.uuid) / "events.jsonl"
        if not path.is_file():
            remove(path)
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        with suppress(ValueError, RecursionError):
            for line in lines[:-1]:
                event = build(Event, json.loads(line), "event")
                if event.seq != len(record.events) + 1:
                    break
                record.events.append(event)
        whole = sum(len(line) + 1 for line in lines[: len(record.events)])
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)
        if record.status not in _OVER:
            last = record.events[-1].event if record.events else ""
            if last not in _LAST:
                self._emit(record, "fault", {"fault": "DEVICE_LOST", "reason": lost})
            record.status = "done" if last == "result" else "failed"
        self.drop_files(record.uuid)


def _add(path: Path, line: bytes) -> None:
    """Append a line that a power failure may take; where the disk is full, nothing."""
    with suppress(OSError), path.open("ab", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        if stream.write(line) < len(line):
            os.ftruncate(stream.fileno(), end)


def _submitted(record: Record) -> dict[str, Any]:
    return {"change": "submitted"} | {name: getattr(record, name) for name in ("uuid", "peer", "epoch", "digest")}


def read_journal(journal: Path, audit: Callable[[str, str], None]) -> Ledger:
    """The ledger of a journal. A line that was cut off by a power failure can only be the last."""
    ledger = Ledger()
    lines = journal.read_bytes().split(b"\n") if journal.exists() else [b""]
    for number, line in enumerate(lines[:-1], 1):
        try:
            ledger.apply(json.loads(line))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            audit("journal damaged", f"line {number} is passed over: {error}")
    return ledger
