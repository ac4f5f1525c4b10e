"""A job's files: ``jobs/<uuid>/bundle`` as its manifest says, ``jobs/<uuid>/images/<sha256>``; hard links of blobs.

What a manifest may say is decided by :mod:`hardware_profiles.bundle`, by the same checks that the runner makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hardware_profiles.agent.blobs import Blobs
from hardware_profiles.agent.exchange import refused
from hardware_profiles.bundle import MANIFEST, open_bundle, parse_manifest
from hardware_profiles.messages import Job, Mode, Request
from hardware_profiles.wire import DIGEST, WireJob
from spaces.errors import BadInput

BUNDLE, IMAGES = "bundle", "images"
MOST_REQUESTS = 100_000
MOST_ANSWERS = 100_000
MOST_SILENCE_S = 3600.0
MOST_ANSWER_S = 600.0
MOST_SUSTAINED_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the worker is to do: ``job`` with paths of this machine, or a look at ``bundle`` alone (``preflight``).

    ``blobs``: the digests of all its files.
    """

    kind: Literal["answer", "measure", "preflight"]
    bundle: Path
    mode: Mode
    job: Job | None
    blobs: frozenset[str] = frozenset()


def lay_out(folder: Path, asked: WireJob, blobs: Blobs) -> Order:
    """Make ``folder`` with all that a job needs. Where that fails, the caller removes what was made of it.

    Raises:
        BadInput: the job or its manifest is not as it should be, or a file's header is not.
        Refused: blobs are missing; all of their digests are named.
    """
    where = folder / BUNDLE / MANIFEST
    text = _encoded(asked.manifest, where)
    files = {name: entry.sha256 for name, entry in parse_manifest(text, where).files.items()}
    order = _order(folder, asked)
    images = {request.image.removeprefix("sha256:") for request in asked.requests}
    names = {f"{BUNDLE}/{name}": sha for name, sha in files.items()} | {f"{IMAGES}/{sha}": sha for sha in images}
    if missing := sorted({sha for sha in names.values() if blobs.size(sha) is None}):
        raise _missing(missing)
    (folder / IMAGES).mkdir(parents=True)
    where.parent.mkdir()
    where.write_bytes(text)
    _link(folder, names, blobs)
    try:
        open_bundle(where.parent, verify=False)
    except BadInput:
        if damaged := blobs.discard_damaged(set(names.values())):
            raise _missing(damaged) from None
        raise
    return replace(order, blobs=frozenset(names.values()))


def images_of(folder: Path) -> set[str]:
    """The digests of the images of a job that was laid out in ``folder``."""
    return {path.name for path in (folder / IMAGES).glob("*")}


def _encoded(text: str, where: Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{where} has characters that are none ({error.reason}); export the bundle again.") from None


def _link(folder: Path, names: Mapping[str, str], blobs: Blobs) -> None:
    for name, sha in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(blobs.path(sha))
        except FileNotFoundError:  # collected since it was looked up
            raise _missing([sha]) from None


def _missing(digests: list[str]) -> Exception:
    named = [f"sha256:{sha}" for sha in digests]
    return refused(424, "MISSING_BLOBS", f"{len(named)} blobs are not on this device.", named)


def _order(folder: Path, asked: WireJob) -> Order:
    order = Order(kind=asked.kind, bundle=folder / BUNDLE, mode=asked.mode, job=None)
    if asked.kind == "preflight":
        return order
    job = Job(
        kind=asked.kind,
        bundle=str(order.bundle),
        requests=tuple(
            Request(
                id=one.id,
                image=str(folder / IMAGES / one.image.removeprefix("sha256:")),
                question=one.question,
                fields=one.fields,
                plain=one.plain,
            )
            for one in asked.requests
        ),
        min_answers=asked.min_answers,
        answer_s=asked.answer_s,
        sustained_s=asked.sustained_s,
    )
    deadlines = {**job.deadline_s, **asked.deadline_s}
    checks = {
        "requests": 0 < len(asked.requests) <= MOST_REQUESTS
        and all(DIGEST.fullmatch(one.image) for one in asked.requests),
        "min_answers": 0 < asked.min_answers <= MOST_ANSWERS,
        "deadline_s": set(deadlines) == set(job.deadline_s)
        and all(0 < seconds <= MOST_SILENCE_S for seconds in deadlines.values()),
        "answer_s": 0 < asked.answer_s <= MOST_ANSWER_S,
        "sustained_s": 0 <= asked.sustained_s <= MOST_SUSTAINED_S,
    }
    for name, holds in checks.items():
        if not holds:
            raise BadInput(f"the job's {name} is missing or out of range; ask for a job within the protocol's limits.")
    return replace(order, job=replace(job, deadline_s=deadlines))
