"""What a job is made of, as the wire has it, and the way of its files to the device: resumable, each content once."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.bundle import MANIFEST, Manifest, open_bundle
from hardware_profiles.devices.connection import ANSWER_S, Connection, Patience, Unreachable
from hardware_profiles.messages import Job, JobFailed, Request
from hardware_profiles.wire import CHUNK_BYTES, EPOCH_HEADER, LENGTH_HEADER, OFFSET_HEADER, WireJob, WireRequest, dump
from spaces.canonical import file_digest

_PIECE_BYTES = 1 << 18  # handed to TLS at a time, which copies what is left of a piece for each record that it sends
_LEAST_HASHED = 20e6  # bytes a second that the slowest device hashes and syncs when a blob is finished
_MARGIN_S = 300.0  # beside its runner's bound: for cooling down before another attempt, and for what is stopped first
_DIGESTS: dict[tuple[str, int, int, int], str] = {}  # of images, by path, inode, size and modification time


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A job as it is sent, with its digest, and where on this machine the blobs that it names are: digest -> path.

    ``asked`` are the ids of its requests; ``silent_s`` is how long an agent that works may have nothing to say of it.
    """

    body: bytes
    content: str
    asked: tuple[str, ...]
    silent_s: float
    blobs: Mapping[str, Path]
    manifest: Manifest


def pack(
    kind: Literal["answer", "measure", "preflight"], bundle: Path, requests: Sequence[Request], **settings: Any
) -> Packed:
    """The job that asks ``requests`` of ``bundle``; ``settings`` are further fields of ``WireJob``.

    Raises:
        BadInput: the folder is no bundle. Its files' content is verified by the device, not here.
    """
    manifest = open_bundle(bundle, verify=False).manifest
    images = {request.image: f"sha256:{_image_digest(request.image)}" for request in requests}
    asked = tuple(
        WireRequest(id=one.id, image=images[one.image], question=one.question, fields=one.fields, plain=one.plain)
        for one in requests
    )
    job = WireJob(kind=kind, manifest=(bundle / MANIFEST).read_text(encoding="utf-8"), requests=asked, **settings)
    files = {f"sha256:{entry.sha256}": bundle / name for name, entry in manifest.files.items()}
    blobs = files | {digest: Path(image) for image, digest in images.items()}
    body = dump(job)
    runner = Job(kind="measure", bundle="", requests=tuple(requests), min_answers=job.min_answers)
    silent_s = runner.total_s + _MARGIN_S
    return Packed(
        body=body,
        content=hashlib.sha256(body).hexdigest(),
        asked=tuple(one.id for one in asked),
        silent_s=silent_s,
        blobs=blobs,
        manifest=manifest,
    )


def upload(connection: Connection, digest: str, path: Path, patience: Patience, epoch: int) -> None:
    """Bring a file to the device, going on where an earlier try ended.

    Raises:
        Refused: ``STALE_EPOCH``, ``NO_SPACE`` and whatever else the caller has to decide on.
        JobFailed: ``INVALID_INPUT`` where the file is not what its digest says; ``TRANSPORT`` where it arrived damaged
            twice; ``DEVICE_LOST``.
        Cancelled: as ``Patience.pause``.
    """
    damaged = 0
    while True:
        patience.pause(0)
        try:
            return _send(connection, digest, path, epoch, patience)
        except Unreachable as error:
            patience.failed(error)
        except Refused as error:
            if error.problem.code == "INTERNAL":
                patience.failed(error)
            elif error.problem.code == "DIGEST_MISMATCH":
                damaged += 1
                _explain_damage(connection.name, digest, path, damaged)
            elif error.problem.code != "WRONG_OFFSET":
                raise
            else:
                patience.failed(Unreachable(error.problem.message))


def _send(connection: Connection, digest: str, path: Path, epoch: int, patience: Patience) -> None:
    """One try: ask what is there, send the rest, finish."""
    where, named = f"/v1/blobs/{digest}", {EPOCH_HEADER: str(epoch)}
    offset, size = _committed(connection, where), path.stat().st_size
    if offset is None:
        return
    with path.open("rb") as stream:
        while offset < size:
            patience.pause(0)
            length = min(CHUNK_BYTES, size - offset)
            headers = {
                OFFSET_HEADER: str(offset),
                LENGTH_HEADER: str(size),
                "Content-Length": str(length),
                "Content-Type": "application/octet-stream",
            }
            connection.once("PATCH", where, body=_pieces(stream.fileno(), offset, length), headers=headers | named)
            patience.progress()
            offset += length
    connection.once("PUT", where, headers=named, answer_s=ANSWER_S + size / _LEAST_HASHED)
    patience.progress()


def _committed(connection: Connection, where: str) -> int | None:
    """How many bytes the device has of a blob; null if it has the whole one."""
    try:
        connection.once("HEAD", where)
    except Refused as error:
        if error.status != 404:
            raise
        offset = error.headers.get(OFFSET_HEADER, "0")
        if not (offset.isascii() and offset.isdigit()):
            raise JobFailed("TRANSPORT", f"{connection.name} says {offset[:40]!r} of how much it has") from None
        return int(offset)
    return None


def _pieces(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    end = offset + length
    while offset < end:
        piece = os.pread(descriptor, min(_PIECE_BYTES, end - offset), offset)
        if not piece:
            raise JobFailed("INVALID_INPUT", "a file of the bundle became shorter while it was sent")
        yield piece
        offset += len(piece)


def _explain_damage(name: str, digest: str, path: Path, times: int) -> None:
    if f"sha256:{file_digest(path)}" != digest:
        raise JobFailed("INVALID_INPUT", f"{path} is not the file that its manifest names; build the bundle again")
    if times > 1:
        raise JobFailed("TRANSPORT", f"{path} arrived damaged at {name} twice, though it is whole here")


def _image_digest(image: str) -> str:
    found = Path(image).stat()
    key = image, found.st_ino, found.st_size, found.st_mtime_ns
    if key not in _DIGESTS:
        _DIGESTS[key] = file_digest(Path(image))
    return _DIGESTS[key]
