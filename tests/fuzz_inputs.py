"""Inputs for :mod:`tests.fuzz_agent`: each kind sends one, made by chance, and says what came back."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware_profiles.wire import WireJob, WireRequest, dump
from tests.fuzz import spoiled
from tests.fuzz_agent import BATCH, FILES, OTHER_LEASES, Target, target
from tests.hardware_profiles.agent.conftest import PNG, manifest_of, sha256
from tests.hardware_profiles.agent.test_headers import SOUND, constant, gguf, graph, tensors

HTTP = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%", b"\xff", b"\r\n\r\n", b"\r\n folded", b"HTTP/1.0\r\n",
    b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 1,1\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Content-Length: +3\r\n", b"content-length: 0x10\r\n", b"Host: x\r\n",
    b"Expect: 100-continue\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Connection: close\r\n", b"Host:\r\n",
    b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"X: " + b"y" * 20_000 + b"\r\n", b"Y: z\r\n" * 3000,
    b"Lease-Epoch: 1\r\n", b"Upload-Offset: 0\r\n", b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n\r\n", b"TRACE",
    b"CONNECT a:1",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"GET http://a/v1/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
)  # fmt: skip
NAMES = (
    "", ".", "..", "%2e%2e", "%2e%2e%2f%2e%2e%2fepoch", "%00", "%ff", "x" * 9000, "sha256:", "sha256:" + "0" * 63,
    "nan",
    "sha256:" + "A" * 64, "sha256:" + "0" * 64, "sha256:../../epoch", "sha512:" + "0" * 64, "0" * 36, "-1", "1e9",
    "inf",
    "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-00000000000G", "events", "acknowledged", "hello",
    "99999999999999999999", "0x1", "+1", "1_000", "%D9%A3", "//", "?", "#", ";", "&after=1", "&" * 40, "*", "after=%zz",
)  # fmt: skip
MANIFEST = manifest_of(FILES)
IMAGE = f"sha256:{sha256(PNG)}"
JOB: dict[str, Any] = json.loads(
    dump(
        WireJob(
            kind="answer",
            manifest=json.dumps(MANIFEST),
            requests=(WireRequest(id="0", image=IMAGE, question="what ?", fields={"kind": "a"}),),
            deadline_s={"load": 5.0, "warmup": 5.0, "work": 5.0},
        )
    )
)
PAIR = {
    "secret": "x" * 43,
    "certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "name": "x",
}
BLOB = "sha256:" + "5" * 64
GONE = "/v1/jobs/00000000-0000-4000-8000-00000000000f"


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in ("Host: a", f"Content-Length: {len(body)}", *headers))
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


REQUESTS = (
    request("GET", "/v1/hello"),
    request("PUT", f"/v1/leases/{OTHER_LEASES[0]}", b'{"ttl_s":5,"holder":"x"}'),
    request("DELETE", f"/v1/leases/{OTHER_LEASES[0]}"),
    request("HEAD", f"/v1/blobs/{BLOB}"),
    request("PATCH", f"/v1/blobs/{BLOB}", b"hello", "Lease-Epoch: 1", "Upload-Offset: 0", "Upload-Length: 9"),
    request("PUT", f"/v1/blobs/{BLOB}", b"", "Lease-Epoch: 1"),
    request("PUT", GONE, json.dumps(JOB).encode(), "Lease-Epoch: 7"),
    request("GET", f"{GONE}/events?after=0&wait=0"),
    request("DELETE", GONE, b"", "Lease-Epoch: 1"),
    request("PUT", f"{GONE}/acknowledged", b"", "Lease-Epoch: 1"),
    request("POST", "/v1/pair", json.dumps(PAIR).encode()),
)


def bytes_of(chance: random.Random) -> bytes:
    """One request or several in a row, with something wrong in its bytes."""
    content = b"".join(chance.choice(REQUESTS) for _ in range(chance.choice((1, 1, 1, 2, 5))))
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(content) + 1)
        header = chance.randrange(content.find(b"\r\n\r\n") + 3) if b"\r\n\r\n" in content else place
        match chance.randrange(6):
            case 0:
                content = content[:header] + chance.choice(HTTP) + content[header:]
            case 1:
                end = content.find(b"\r\n") + 2
                content = content[:end] + chance.choice(HTTP) + content[end:]
            case 2:
                content = content[:place]
            case 3:
                content = content[:header] + bytes([chance.randrange(256)]) + content[header + 1 :]
            case 4:
                content = content[:header] + content[place:] if place > header else content + content
            case _:
                content += chance.choice(HTTP)
        if not content:
            return chance.randbytes(chance.randrange(1, 200))
    return content


def paired(agent: Target, chance: random.Random) -> str:
    statuses, codes = agent.raw("host", bytes_of(chance))
    return (codes or [str(one) for one in statuses] or ["cut"])[0]


def stranger(agent: Target, chance: random.Random) -> str:
    """Nothing but a refusal, whatever it is."""
    statuses, codes = agent.raw("nobody", bytes_of(chance))
    assert all(status >= 400 or status == 100 for status in statuses), statuses
    return (codes or [str(one) for one in statuses] or ["cut"])[0]


def without_tls(agent: Target, chance: random.Random) -> str:
    """At most a TLS alert (RFC 8446, 6: content type 21)."""
    came = agent.plain(
        bytes_of(chance) if chance.random() < 0.5 else b"\x16\x03\x01" + chance.randbytes(chance.randrange(300))
    )
    assert b"HTTP" not in came
    assert not came or came[0] == 21, came
    return "alert" if came else "cut"


def _json(document: Any) -> str:
    try:
        return json.dumps(document, default=str, ensure_ascii=False, skipkeys=True)
    except (ValueError, RecursionError):
        return str(document)


def body(agent: Target, chance: random.Random) -> str:
    """A message of the wire with something wrong in it, to the route that takes it, or to another."""
    lease = {"ttl_s": 5, "holder": "x"}
    routes = (
        ("PUT", f"/v1/leases/{chance.choice(OTHER_LEASES)}", lease),
        ("PUT", "job", JOB),
        ("POST", "/v1/pair", PAIR),
    )
    method, path, valid = chance.choice(routes)
    content = spoiled(valid, _json, chance)
    if chance.random() < 0.05:
        depth = chance.randrange(900, 1000)  # where JSON can still be read, and little else be done with it
        deep = b'{"holder":' + b"[" * depth + b"]" * depth + b',"ttl_s":5}'
        long = (b'"' + b"x" * (1 << 20), b"1" * 10_000, b"\xff" * 100)
        content = chance.choice((b"[" * 100_000, b'{"a":' * 100_000, deep, *long))
    if path == "job":
        return agent.submit(content, chance)
    status, said = agent.ask(method, path, content)
    return agent.code(status, said)


def manifest(agent: Target, chance: random.Random) -> str:
    text = spoiled(MANIFEST, _json, chance).decode(errors="replace")
    return agent.submit(json.dumps({**JOB, "manifest": text}).encode(), chance)


def place(agent: Target, chance: random.Random) -> str:
    """A path, a query or a header that is none."""
    name, other = chance.choice(NAMES), chance.choice(NAMES)
    path = chance.choice(
        (
            f"/v1/blobs/{name}", f"/v1/leases/{name}", f"/v1/jobs/{name}", f"/v1/jobs/{name}/{other}", f"/v1/{name}",
            f"/{name}/{other}", f"{GONE}/events?after={name}&wait={other}", f"{GONE}/events?{name}",
            f"/v1/blobs/{BLOB}", f"/v1/hello?{name}", f"/v1/jobs/{name}/events?wait=0", f"{GONE}/acknowledged/{name}",
            "/v1/pair", "*",
        )
    )  # fmt: skip
    method = chance.choice(("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "get", "X" * 300))
    headers = {chance.choice(("Lease_Epoch", "Upload_Offset", "Upload_Length", "Host")): other.replace("\r", "")}
    if chance.random() < 0.5:
        headers = {
            "Upload_Offset": chance.choice(("0", "1", other)),
            "Upload_Length": chance.choice(("9", "1" * 18, name)),
        }
    status, said = agent.ask(method, path, b"hello" if chance.random() < 0.5 else b"", **headers)
    return agent.code(status, said)


def spoiled_bytes(content: bytes, chance: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0 if made:
                made[at % len(made)] = chance.randrange(256)
            case 1:
                made[at:at] = chance.choice(
                    (b"0", b"9" * 20, b"-1", b"\0", b"[" * 5000, b'"', b"}", b"<", b"&a;", b"1e999")
                )
            case 2:
                del made[at : at + chance.choice((1, 8, 1000))]
            case 3:
                made[:8] = chance.choice((0, 1, 2, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)).to_bytes(8, "little")
            case _:
                made += chance.randbytes(chance.randrange(1, 40))
    return bytes(made)


def header(agent: Target, chance: random.Random) -> str:
    """A model file whose header lies."""
    kind = chance.choice(("safetensors", "tensors", "xml", "gguf", "config"))
    if kind == "safetensors":
        files = {"model.safetensors": spoiled_bytes(tensors(SOUND, b"x" * 23), chance)}
    elif kind == "tensors":
        files = {"model.safetensors": tensors(spoiled(SOUND, _json, chance), b"x" * 23)}
    elif kind == "xml":
        text = graph(constant(0, 12) + constant(12, 6, "u8", "6") + constant(20, 8, "string", "1"))
        files = {"model.xml": spoiled_bytes(text.encode(), chance), "model.bin": b"\1\0\0\0" * 25}
    elif kind == "gguf":
        files = {"model.gguf": spoiled_bytes(gguf(1, 2), chance)}
    else:
        files = {"config.json": spoiled({"auto_map": {}, "model_type": "x"}, _json, chance)}
    agent.upload(*files.values())
    return agent.submit(json.dumps({**JOB, "manifest": json.dumps(manifest_of(files))}).encode(), chance)


KINDS: dict[str, Callable[[Target, random.Random], str]] = {
    one.__name__: one for one in (paired, stranger, without_tls, body, manifest, place, header)
}


def fuzz(folder: Path, count: int, seed: int) -> dict[str, Counter[str]]:
    """Send ``count`` inputs, with a look at the agent after each batch; by kind of input, what came back.

    Raises:
        AssertionError: the agent did what it must not; the message holds the seed and the numbers of the batch.
    """
    with target(folder, seed) as agent:
        for number in range(count):
            chance = random.Random(f"{seed}-{number}")
            kind = list(KINDS)[number % len(KINDS)]
            begun = time.monotonic()
            try:
                outcome = KINDS[kind](agent, chance)
                assert time.monotonic() - begun < 20, "it took too long"
                agent.found.setdefault(kind, Counter())[outcome] += 1
                if (number + 1) % BATCH == 0 or number + 1 == count:
                    agent.look()
            except Exception as error:
                told = f"seed {seed}, input {number} ({kind}): {type(error).__name__}: {error}"
                raise AssertionError(told) from error
        return agent.found
