"""The page docs/agent-protocol.md, made from the typed messages and the table of calls here.

To make it again: ``python -m hardware_profiles.wire_page > docs/agent-protocol.md``.
"""

import dataclasses
import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hardware_profiles import messages, wire


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the wire. ``write``: it names the lease's epoch."""

    method: str
    path: str
    answer: str
    does: str
    body: str = ""
    write: bool = False


_SUBMIT = """Submit; the uuid is the host's. 424 MISSING_BLOBS names digests, 409 CONFLICT is another content under this
uuid, 409 REPLAYED was acknowledged before, 422 INVALID_INPUT a manifest or header that is refused, 503 QUARANTINED a
device that must be restarted."""
_PATCH = f"""Append at `Upload-Offset`, of `Upload-Length` in all, at most {wire.CHUNK_BYTES >> 20} MiB at a time. What
came before a cut stays. 409 WRONG_OFFSET, 413 OVER_LENGTH and 507 NO_SPACE change nothing."""
_LEASE = """Take, renew or wait for the device. Who does not ask again within the TTL (5 to 120 s) drops out; a job of a
lease that ran out is cancelled. Epochs only grow."""
_EVENTS = f"""The events after number SEQ, at once if there are any, else the first that comes within S (at most
{wire.MOST_WAIT_S:g}) seconds."""
_ACKNOWLEDGED = """The host has kept the result: the agent forgets the job and its images. Until then it keeps the
result, over restarts too."""
CALLS = (
    Call("GET", "/v1/hello", "200 Hello", "Who the agent is and what it can do."),
    Call(
        "POST", "/v1/pair", "204", "Redeem a one-time token. The one call without a client certificate.", "PairRequest"
    ),
    Call("PUT", "/v1/leases/UUID", "200 Lease", _LEASE, "LeaseRequest"),
    Call("DELETE", "/v1/leases/UUID", "204", "Give it back, or leave the queue."),
    Call("HEAD", "/v1/blobs/DIGEST", "200 if whole", "404 has in `Upload-Offset` how much of it came: go on there."),
    Call("PATCH", "/v1/blobs/DIGEST", "204", _PATCH, "raw bytes", write=True),
    Call(
        "PUT",
        "/v1/blobs/DIGEST",
        "201, again 200",
        "Finish: length and hash are verified, the blob is durable. 422 DIGEST_MISMATCH discards what came.",
        write=True,
    ),
    Call("PUT", "/v1/jobs/UUID", "201 JobState, again 200", _SUBMIT, "WireJob", write=True),
    Call("GET", "/v1/jobs/UUID", "200 JobState", "How far it is."),
    Call("GET", "/v1/jobs/UUID/events?after=SEQ&wait=S", "200, one Event a line", _EVENTS),
    Call("PUT", "/v1/jobs/UUID/acknowledged", "204", _ACKNOWLEDGED, write=True),
    Call("DELETE", "/v1/jobs/UUID", "204", "Cancel it if it is not over.", write=True),
)
_INTRO = f"""\
# What host and agent say to each other

Made from `hardware_profiles/wire.py` and `hardware_profiles/messages.py`; do not edit. To make it again:

    python -m hardware_profiles.wire_page > docs/agent-protocol.md

HTTP/1.1 over TLS 1.3, protocol versions {wire.PROTOCOLS[0]} to {wire.PROTOCOLS[1]}, port {wire.DEFAULT_PORT} unless \
told otherwise. Both sides show self-signed certificates and accept exactly the one that was pinned when they were \
paired. A token is `<sha256 of the agent's certificate>::<secret>`: the host compares the certificate before it sends \
the secret. Control bodies are JSON objects of the messages below, at most {wire.JSON_BYTES >> 20} MiB; unknown fields \
are passed over. Every answer of 400 or above is a `Problem`.

Every call may be made again without harm. Calls marked * are writes and name the lease's epoch in \
`{wire.EPOCH_HEADER}`; one that is not the holder's is refused with 409 STALE_EPOCH, and nothing is changed.
"""
_CALLED: tuple[type[Any], ...] = (
    wire.Problem, wire.Hello, wire.Facts, wire.PairRequest, wire.LeaseRequest, wire.Lease, wire.WireJob,
    wire.WireRequest, messages.Job, messages.Request, wire.JobState, wire.Event,
)  # fmt: skip
_RESULTS: tuple[type[Any], ...] = (
    messages.Measurement, messages.Process, messages.Timing, messages.Reading, messages.Answered, messages.Answer,
    wire.Preflight,
)  # fmt: skip


def page() -> str:
    """The page, Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "## Calls\n"
    yield "| call | body | answer | |"
    yield "| --- | --- | --- | --- |"
    for one in CALLS:
        mark = " *" if one.write else ""
        yield f"| `{one.method} {one.path}`{mark} | {one.body} | {one.answer} | {_plain(one.does)} |"
    yield "\n## Messages"
    for kind in _CALLED:
        yield from _message(kind)
    yield "\n### Codes of a Problem\n"
    yield f"{', '.join(f'`{code}`' for code in get_args(wire.Code))}."
    yield "\n## Results of jobs"
    for kind in _RESULTS:
        yield from _message(kind)
    yield "\n### Faults of a job\n"
    yield f"{', '.join(f'`{fault}`' for fault in get_args(messages.Fault))}. {_plain(_OF_FAULTS)}\n"


_OF_FAULTS = """``OOM``, ``CRASH`` and ``TIMEOUT`` are results about the configuration. ``DEVICE_LOST``, ``TRANSPORT``
and ``STALE_EPOCH`` are of the way to the device, and say nothing of the configuration."""


def _message(kind: type[Any]) -> Iterator[str]:
    """A heading, what the docstring says, and a table of the fields."""
    told, meanings = _docstring(kind)
    yield f"\n### {kind.__name__}\n"
    if told:
        yield f"{told}\n"
    yield "| field | type | |"
    yield "| --- | --- | --- |"
    hints = get_type_hints(kind)
    for one in dataclasses.fields(kind):
        yield f"| `{one.name}` | {_type(hints[one.name])}{_default(one)} | {meanings.get(one.name, '')} |"


def _docstring(kind: type[Any]) -> tuple[str, Mapping[str, str]]:
    """What a class's docstring says before its attributes, and of each of them."""
    text = re.sub(r"\n {4,8}", lambda found: "\n" + found[0][5:], kind.__doc__ or "")
    before, _, attributes = text.partition("Attributes:")
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=\w[\w, ]*: )", re.sub(r"\n {4}(?! )", "\n", attributes)):
        names, colon, told = entry.strip().partition(": ")
        if colon:
            meanings |= dict.fromkeys(names.split(", "), _plain(told))
    return _plain(before), meanings


def _plain(text: str) -> str:
    """Sphinx's marks as Markdown's, on one line, safe in a table."""
    text = re.sub(r":(?:class|mod|func):`(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _type(one) for one in arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, arguments))}]"
    if origin is not None:
        return f"object of {_type(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    return names[kind] if kind in names else f"[{kind.__name__}](#{kind.__name__.lower()})"


def _default(one: "dataclasses.Field[Any]") -> str:
    if one.default is not dataclasses.MISSING:
        return f", default `{json.dumps(one.default)}`" if one.default != () else ", may be absent"
    return ", may be absent" if one.default_factory is not dataclasses.MISSING else ""


if __name__ == "__main__":
    print(page(), end="")
