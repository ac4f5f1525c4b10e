"""A job's events, followed to its end over a line that may break anywhere, and what they amount to."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.supervisor import Enough
from hardware_profiles.devices.connection import ANSWER_S, Connection, Patience, refusal
from hardware_profiles.devices.upload import Packed
from hardware_profiles.messages import Answer, Answered, Fault, JobFailed, Measurement
from hardware_profiles.wire import Event, JobState, Malformed, Preflight, build, parse

POLL_S = 2.0
"""How long the agent is asked to wait for the next event. Short, so that a cancel is heard soon; one call in two
seconds costs the device next to nothing beside its own sensors."""
T = TypeVar("T")


class Gone(Exception):
    """The job ended without a result through no fault of the configuration: it may be submitted again."""


class Followed:
    """What was heard of a job that asked these ids. ``cut_short``: the caller had heard enough before its end.

    What cannot be of such a job is refused (``TRANSPORT``): figures are made of it, and answers are looked up by id.
    """

    def __init__(self, asked: Collection[str]) -> None:
        self.cut_short = False
        self._asked = frozenset(asked)
        self._left = set(asked)
        self._answers: list[Answer] = []
        self._result: Mapping[str, Any] = {}
        self._began: dict[str, float] = {}  # phase -> when it was first heard of

    def take(self, event: Event) -> tuple[Answer, ...]:
        """Take an event in; the answers that came with it.

        Raises:
            Gone: the device lost the job.
            JobFailed: the job ended in a fault; or ``TRANSPORT``.
        """
        if event.event == "fault":
            kind: Fault = _made(cast("Any", Fault), event.content.get("fault"))
            fault = JobFailed(kind, str(event.content.get("reason", "")))
            if fault.fault in ("DEVICE_LOST", "STALE_EPOCH", "TRANSPORT"):
                raise Gone(fault.reason)
            raise fault
        if event.event == "answers":
            came = _made(tuple[Answer, ...], event.content.get("answers"))
            for one in came:
                _require(one.id in self._left, f"an answer to {one.id!r}")
                self._left.remove(one.id)
            self._answers += came
            return came
        if event.event == "result":
            self._result = event.content
        elif event.event == "phase":
            self._began.setdefault(str(event.content.get("phase")), time.monotonic())
        return ()

    def measurement(self) -> Measurement:
        found = _made(Measurement, self._result)
        _require(bool(found.processes) and all(one.timings for one in found.processes), "nothing timed")
        for one in found.processes:
            _require(min(one.load_s, one.memory_peak_bytes, *one.disturbed_p50_ms, 1) > 0, "a load of nothing")
        for timing in found.timings:
            _require(timing.id in self._asked, f"an answer to {timing.id!r}")
            first = (timing.ttft_ms, *timing.token_ms) if timing.token_ms else ()
            _require(min((timing.e2e_ms, *first)) > 0, "an answer in no time")
        return found

    def preflight(self) -> Preflight:
        found = _made(Preflight, self._result)
        _require(found.operations >= len(found.fallback), "more operations than there are")
        return found

    def answered(self) -> Answered:
        """All answers; of a job that was cut short, with times as they were heard here."""
        if not self.cut_short:
            _require(not self._left, f"no answer to {len(self._left)} requests")
            answers = [{"id": one.id, "text": one.text, "tokens": one.tokens} for one in self._answers]
            return _made(Answered, {**self._result, "answers": answers})
        now = time.monotonic()
        loaded, worked = (self._began.get(phase, now) for phase in ("warmup", "work"))
        return Answered(
            answers=tuple(self._answers),
            load_s=loaded - self._began.get("load", loaded),
            work_s=now - worked,
            memory_peak_bytes=None,
            properties={},
        )


def each_once(enough: Enough) -> Enough:
    """``enough`` without answers that it was handed before: a job that is submitted anew gives them again."""
    handed: set[str] = set()

    def asked(came: Sequence[Answer]) -> bool:
        fresh = [one for one in came if one.id not in handed]
        handed.update(one.id for one in fresh)
        return bool(fresh) and enough(fresh)

    return asked


def follow(connection: Connection, packed: Packed, job: UUID, patience: Patience, enough: Enough | None) -> Followed:
    """Hear a job's events to its end, or until the caller has heard ``enough``.

    Raises:
        Gone: the job is no more, and it is not its own fault.
        JobFailed: the job's own fault; ``DEVICE_LOST``, also where the agent answers but has no event of the job for
            ``packed.silent_s`` seconds; ``TRANSPORT``.
        Cancelled: the caller's event was set.
    """
    followed, after, heard = Followed(packed.asked), 0, time.monotonic()
    while True:
        events = _events(connection, job, after, patience)
        if events:
            heard = time.monotonic()
        elif time.monotonic() - heard > packed.silent_s:
            raise JobFailed("DEVICE_LOST", f"{connection.name} has said nothing of a job for {packed.silent_s:.0f} s")
        for event in events:
            after = event.seq
            came = followed.take(event)
            if event.event == "result":
                return followed
            if came and enough and enough(came):
                followed.cut_short = True
                return followed
        if not events and _asked(connection, patience, f"/v1/jobs/{job}", JobState).status == "cancelled":
            raise Gone("its lease had run out")


def _events(connection: Connection, job: UUID, after: int, patience: Patience) -> tuple[Event, ...]:
    path = f"/v1/jobs/{job}/events?after={after}&wait={POLL_S:g}"
    body = _called(connection, patience, path)
    try:
        events = tuple(parse(Event, line) for line in body.splitlines() if line)
    except Malformed as error:
        raise JobFailed("TRANSPORT", f"{connection.name} sent no proper event ({error})") from None
    if [event.seq for event in events] != list(range(after + 1, after + 1 + len(events))):
        raise JobFailed("TRANSPORT", f"{connection.name} left out events of a job after number {after}")
    return events


def _asked(connection: Connection, patience: Patience, path: str, kind: type[T]) -> T:
    return connection.read(kind, _called(connection, patience, path))


def _called(connection: Connection, patience: Patience, path: str) -> bytes:
    try:
        return connection.call(patience, "GET", path, answer_s=ANSWER_S + POLL_S).body
    except Refused as error:
        if error.problem.code == "NOT_FOUND":
            raise Gone("the agent no longer knows it") from None
        raise refusal(connection.name, error) from error


def _made(kind: type[T], value: Any) -> T:
    try:
        made: T = build(kind, value, "result")
        return made
    except Malformed as error:
        raise JobFailed("TRANSPORT", f"the device sent no proper result ({error})") from None


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise JobFailed("TRANSPORT", f"the device sent no proper result ({what[:80]})")
