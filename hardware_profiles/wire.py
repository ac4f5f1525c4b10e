"""What host and agent say to each other over HTTP: typed messages of protocol version 1. Standard library only.

Control bodies are JSON objects of the dataclasses here; blobs are raw bytes. Every error is a :class:`Problem`.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from hardware_profiles.messages import Fault, Mode

PROTOCOLS = (1, 1)
"""The oldest and the newest version of the protocol that this code speaks."""
DEFAULT_PORT = 7433
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
EPOCH_HEADER = "Lease-Epoch"
OFFSET_HEADER = "Upload-Offset"
LENGTH_HEADER = "Upload-Length"
JSON_BYTES = 16 << 20  # of one control body, at most
CHUNK_BYTES = 8 << 20  # of one PATCH, at most
MOST_WAIT_S = 30.0  # that a request for events may wait for one

Code: TypeAlias = Literal[
    "MALFORMED", "UNAUTHENTICATED", "RATE_LIMITED", "NOT_FOUND", "WRONG_OFFSET", "OVER_LENGTH", "DIGEST_MISMATCH",
    "MISSING_BLOBS", "NO_SPACE", "STALE_EPOCH", "CONFLICT", "REPLAYED", "INVALID_INPUT", "UNSUPPORTED", "QUARANTINED",
    "INTERNAL",
]  # fmt: skip
"""Why a request was refused. ``CONFLICT``: another job has this uuid. ``REPLAYED``: it was acknowledged already.
``QUARANTINED``: a runner outlived SIGKILL, so nothing can be measured here before the device is restarted."""
JobStatus: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The body of every answer of 400 or above. ``expected``: the right offset, or the digests that are missing."""

    code: Code
    message: str
    expected: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an agent knows of its device without measuring anything.

    Attributes:
        machine: instruction set (``x86_64``, ``aarch64``).
        model: the board or computer by its own name; empty where it has none.
        cpu: the processor by its own name.
        memory_bytes: of the machine, in all.
        threads: CPU threads that the agent may use.
        dtypes: computed natively by the CPU (``f32``, ``bf16``, ``int8``).
        accelerators: name -> what it is, as the runtimes report them (``GPU.0``, ``NPU``, ``cuda:0``).
        sensors: ``temperature``, ``clock``, ``throttle``, ``energy`` -> where it is read; or ``none: `` and why not.
        platform: governor, power mode, kernel, operating system: what bears on speed.
        isolation: what the runner is kept from (``user``, ``network``, ``memory``) -> how; or ``none: `` and why.
    """

    machine: str
    model: str
    cpu: str
    memory_bytes: int
    threads: int
    dtypes: tuple[str, ...]
    accelerators: Mapping[str, str] = field(default_factory=dict)
    sensors: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] = field(default_factory=dict)
    isolation: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Hello:
    """``GET /v1/hello``: who the agent is and what it can do.

    Attributes:
        protocols: the oldest and the newest version that it speaks.
        agent: version of vlmfront.
        boot_id: of the kernel; another one means that the device restarted.
        runtimes: name -> version of each runtime that is installed.
        servers: names of the servers that the device's own configuration can start, for the runtime ``server``.
        disk_free_bytes: that blobs may still take.
    """

    protocols: tuple[int, int]
    agent: str
    boot_id: str
    runtimes: Mapping[str, str]
    facts: Facts
    servers: tuple[str, ...] = ()
    disk_free_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class PairRequest:
    """``POST /v1/pair``, the one call without a client certificate: the token's secret and the host's certificate."""

    secret: str
    certificate: str
    name: str


@dataclass(frozen=True, kw_only=True)
class LeaseRequest:
    """``PUT /v1/leases/<uuid>``: take, renew or wait for the device. The uuid is the host's own: a repeat is safe."""

    ttl_s: float


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The answer to it. ``epoch`` is null while others are before it (``position`` 1 is next); every write names it."""

    epoch: int | None
    position: int
    expires_s: float


@dataclass(frozen=True, kw_only=True)
class WireRequest:
    """One question of a job; ``image`` is the digest of a blob. As :class:`hardware_profiles.messages.Request`."""

    id: str
    image: str
    question: str
    fields: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False


@dataclass(frozen=True, kw_only=True)
class WireJob:
    """``PUT /v1/jobs/<uuid>``: what the device is asked to do. The same uuid and body again start nothing.

    Attributes:
        kind: ``measure`` and ``answer`` as :class:`hardware_profiles.messages.Job`; ``preflight`` only looks which
            operations would leave the accelerator.
        manifest: the bundle's ``manifest.json`` as it is, text; its files are blobs.
        mode: ``measure``: how many processes.
        min_answers, deadline_s, answer_s, sustained_s: as in ``Job``.
    """

    kind: Literal["answer", "measure", "preflight"]
    manifest: str
    requests: tuple[WireRequest, ...]
    mode: Mode = "provisional"
    min_answers: int = 11
    deadline_s: Mapping[str, float] = field(default_factory=dict)
    answer_s: float = 30.0
    sustained_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class JobState:
    """``GET /v1/jobs/<uuid>``. ``last_seq``: number of its latest event, 0 where there is none."""

    status: JobStatus
    last_seq: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of ``GET /v1/jobs/<uuid>/events?after=<seq>&wait=<s>``, numbered from 1 without gaps.

    Attributes:
        event: ``phase`` (of a runner), ``process`` (number of those done), ``answers``, ``result`` or ``fault``; the
            last two end a job.
        content: of ``answers``: ``{"answers": [Answer]}``; of ``result``: a ``Measurement``, an ``Answered`` without
            its answers, or a ``Preflight``; of ``fault``: ``{"fault", "reason"}``.
    """

    seq: int
    event: Literal["phase", "process", "answers", "result", "fault"]
    content: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The result of a ``preflight`` job.

    Attributes:
        device: where the runtime would run the bundle.
        operations: how many there are in its graphs.
        fallback: operation -> why it would leave the accelerator.
        reasons: why the bundle cannot run here at all; empty where it can.
    """

    device: str
    operations: int
    fallback: Mapping[str, str]
    reasons: tuple[str, ...] = ()


class Malformed(ValueError):
    """A body is not the message that it should be."""


T = TypeVar("T")


def dump(message: Any) -> bytes:
    """A message as JSON."""
    return json.dumps(asdict(message), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(kind: type[T], body: bytes) -> T:
    """The message in a JSON body. Types are checked, unknown fields are passed over: a newer minor peer may send some.

    Raises:
        Malformed: naming the first field that is not as it should be.
    """
    try:
        document = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is no JSON ({error})") from None
    try:
        made: T = build(kind, document, kind.__name__)
    except RecursionError:  # while the value that does not fit is shown
        raise Malformed("the body is nested too deeply") from None
    return made


def build(kind: Any, value: Any, where: str) -> Any:
    """``value``, as it came from JSON, as the type ``kind``: dataclasses, mappings, tuples, literals and plain values.

    Raises:
        Malformed: naming the field, which ``where`` begins.
    """
    if is_dataclass(kind):
        return _object(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _expect(value in arguments and isinstance(value, str), value, where, kind)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(_origin(origin), Mapping):
        _expect(isinstance(value, dict), value, where, "an object")
        return {name: build(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    if type(None) in arguments:
        return None if value is None else build(Union[tuple(a for a in arguments if a is not type(None))], value, where)  # noqa: UP007
    if kind is Any:
        return value
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        _expect(number, value, where, "a number")
        return float(value)
    return _expect(type(value) is kind, value, where, kind.__name__)


def _origin(origin: Any) -> type:
    return origin if isinstance(origin, type) else object


def _object(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, "an object")
    types = get_type_hints(kind)
    given = {one.name: value[one.name] for one in fields(kind) if one.name in value}
    try:
        return kind(**{name: build(types[name], one, f"{where}.{name}") for name, one in given.items()})
    except TypeError as error:
        raise Malformed(f"{where}: {error}") from None


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, where, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(build(arguments[0], one, f"{where}[{place}]") for place, one in enumerate(value))
    _expect(len(value) == len(arguments), value, where, f"a list of {len(arguments)}")
    return tuple(build(kind, one, where) for kind, one in zip(arguments, value, strict=True))


def _expect(holds: bool, value: Any, where: str, what: Any) -> Any:
    if not holds:
        raise Malformed(f"{where}: {what} is expected, not {str(value)[:60]!r}")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def fault_of(code: Code) -> Fault:
    """The fault of a job that the agent refused with this code.

    ``INVALID_INPUT`` is held against the configuration for ever, so it is for what would be refused at any time. A full
    disk, too many askers or a blob that went away are of the way: the job is asked again later.
    """
    if code in ("MALFORMED", "OVER_LENGTH", "INVALID_INPUT", "UNSUPPORTED"):
        return "INVALID_INPUT"
    faults: dict[Code, Fault] = {"STALE_EPOCH": "STALE_EPOCH", "QUARANTINED": "DEVICE_LOST"}
    return faults.get(code, "TRANSPORT")
