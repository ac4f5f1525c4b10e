"""One streamed chat completion over HTTP, with a time stamp for each chunk. The standard library's client alone.

The form is that of OpenAI's ``/v1/chat/completions`` with ``stream``: server-sent events (WHATWG HTML, 9.2), each with
a ``chat.completion.chunk`` as JSON, then ``[DONE]``. llama.cpp adds ``timings`` to the last one.
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PATH = "/v1/chat/completions"
_LINE_BYTES = 1 << 20
_ERROR_BYTES = 1 << 16


class Refused(Exception):
    """The server answered with an error, in ``status`` (of HTTP) and its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


@dataclass
class Streamed:
    """One answer as it came; stamps are of ``time.perf_counter``.

    Attributes:
        stamps: of every chunk that brought text.
        finished: when the chunk with the reason to end came; null where none did.
        reason: ``stop``, ``length`` or what else the server says.
        usage: as the server reports it; empty where it does not.
        timings: llama.cpp's own; empty elsewhere.
        version: its ``system_fingerprint``.
    """

    text: str = ""
    stamps: list[float] = field(default_factory=list)
    finished: float | None = None
    reason: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def take(self, chunk: Mapping[str, Any], stamp: float) -> None:
        """Take in one chunk."""
        self.usage = chunk.get("usage") or self.usage
        self.timings = chunk.get("timings") or self.timings
        self.version = chunk.get("system_fingerprint") or self.version
        for choice in chunk.get("choices") or ():
            if words := (choice.get("delta") or {}).get("content"):
                self.text += words
                self.stamps.append(stamp)
            if choice.get("finish_reason"):
                self.finished, self.reason = stamp, str(choice["finish_reason"])


def stream(host: str, port: int, body: bytes, *, timeout_s: float, most: int) -> Streamed:
    """Ask and read to the end; ``timeout_s`` is the longest silence, ``most`` the number of chunks.

    Raises:
        Refused: the server answered with an error, at once or within the stream.
        OSError, http.client.HTTPException: the connection broke, or the stream ended before the answer did.
        ValueError: what came is no such stream.
    """
    answer = Streamed()
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise Refused(response.status, _words(response.read(_ERROR_BYTES)))
        for count, (data, stamp) in enumerate(_events(response)):
            if data == b"[DONE]":
                break
            if count >= most:
                raise ValueError(f"more than {most} chunks came")
            chunk = json.loads(data)
            if not isinstance(chunk, dict):
                raise ValueError(f"{data[:80]!r} is no chunk")
            if "error" in chunk:
                raise Refused(http.client.INTERNAL_SERVER_ERROR, _words(data))
            answer.take(chunk, stamp)
        if answer.finished is None:
            raise http.client.IncompleteRead(answer.text.encode())
    finally:
        connection.close()
    return answer


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[bytes, float]]:
    """The data of each event, and when its last line came."""
    data: list[bytes] = []
    stamp = 0.0
    while line := response.readline(_LINE_BYTES):
        if len(line) == _LINE_BYTES:
            raise ValueError(f"a line of {_LINE_BYTES} bytes came")
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            stamp = time.perf_counter()
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data), stamp
            data = []
    if data:
        yield b"\n".join(data), stamp


def _words(body: bytes) -> str:
    """What an error says, whatever its form."""
    try:
        found = json.loads(body)
        error = found.get("error", found.get("message", found.get("detail", found)))
        return str(error.get("message", error) if isinstance(error, dict) else error)[:600]
    except (ValueError, AttributeError):
        return " ".join(body.decode(errors="replace").split())[:600]


def requested(model: str, messages: list[dict[str, Any]], max_tokens: int, more: Mapping[str, Any]) -> bytes:
    """The body of a request: greedy, streamed, with the counts of tokens at its end."""
    return json.dumps(
        {
            **more,
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
