import hashlib
import json
import os
import select
import ssl
import time
from contextlib import suppress

import pytest

from hardware_profiles.agent.http import HEADER_BYTES
from hardware_profiles.wire import CHUNK_BYTES
from tests.door import QUICK, Door, Opened, replies

LINE = b"Host: agent\r\n"
HELLO = b"GET /v1/hello HTTP/1.1\r\n" + LINE


def test_a_connection_is_kept_and_requests_may_be_pipelined(door: Door) -> None:
    body = os.urandom(300_000)
    upload = b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    first, second, third = door.exchange(HELLO + b"\r\n" + upload + HELLO + b"Connection: close\r\n\r\n")
    assert (first[0], second[0], third[0]) == (200, 200, 200)
    assert json.loads(second[2]) == {"sha256": hashlib.sha256(body).hexdigest()}
    assert (first[1].get("connection"), third[1]["connection"]) == (None, "close")


def test_the_reply_to_head_has_the_length_and_no_body(door: Door) -> None:
    with door.connection(door.host) as client:
        for path, status, length in (
            ("/v1/size", 200, "123456789"),
            ("/v1/refuse", 409, None),
            ("/v1/hello", 200, "11"),
        ):
            client.request("HEAD", path)
            reply = client.getresponse()
            assert (reply.status, reply.read()) == (status, b"")
            assert length in (None, reply.getheader("Content-Length"))
        client.request("GET", "/v1/hello")  # the connection is still in step
        assert client.getresponse().read() == b'{"hello":1}'


def test_a_body_that_the_service_did_not_want_is_read_past(door: Door) -> None:
    with door.connection(door.host) as client:
        for _ in range(2):
            client.request("PATCH", "/v1/refuse", body=os.urandom(2_000_000))
            reply = client.getresponse()
            assert (reply.status, reply.getheader("Upload-Offset")) == (409, "7")
            assert json.loads(reply.read())["code"] == "STALE_EPOCH"


def test_a_failure_of_the_service_is_no_secret_and_no_end(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with door.connection(door.host) as client:
        client.request("GET", "/v1/break")
        reply = client.getresponse()
        assert (reply.status, json.loads(reply.read())["code"]) == (500, "INTERNAL")
        client.request("GET", "/v1/hello")
        assert client.getresponse().status == 200
    assert "the service is broken" in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 5, 6\r\n\r\nhello!", 400),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: +5\r\n\r\nhello", 400),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: -5\r\n\r\nhello", 400),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 411),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /v1/hello HTTP/1.1\r\n" + LINE + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"\r\nhello", 411),
        (b"POST /v1/pair HTTP/1.1\r\n" + LINE + b"\r\n", 411),
        (b"GET /v1/hello HTTP/1.1\r\n\r\n", 400),
        (b"GET http://other/v1/hello HTTP/1.1\r\n" + LINE + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + LINE + b"\r\n", 400),
        (b"GET /v1/hello HTTP/1.1\r\n" + LINE + b"X: a\r\n folded\x00\r\n\r\n", 400),
        (b"GET /v1/hello?" + b"&".join(b"%d=1" % n for n in range(40)) + b" HTTP/1.1\r\n" + LINE + b"\r\n", 400),
        (b"\x16\x03\x01 nothing of HTTP\r\n\r\n", 400),
        (HELLO + b"X: " + b"x" * HEADER_BYTES + b"\r\n\r\n", 431),  # whole in one piece
        (HELLO + b"X: " + b"x" * 10 * HEADER_BYTES, 431),  # without an end
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: %d\r\n\r\n" % (CHUNK_BYTES + 1), 413),
        (b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n", 413),
    ],
)  # fmt: skip
def test_a_request_that_leaves_a_doubt_is_refused_and_the_connection_ends(
    door: Door, request_: bytes, status: int
) -> None:
    found = door.exchange(request_ + HELLO + b"\r\n")  # which must not be taken for a request of its own
    assert [reply[0] for reply in found] == [status]
    assert found[0][1]["connection"] == "close"
    assert json.loads(found[0][2])["code"] in ("MALFORMED", "OVER_LENGTH")
    assert door.service.asked == []


def test_equal_lengths_said_twice_are_one_length(door: Door) -> None:
    twice = b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"
    first, second = door.exchange(twice + HELLO + b"Connection: close\r\n\r\n")
    assert json.loads(first[2]) == {"sha256": hashlib.sha256(b"hi").hexdigest()}
    assert second[0] == 200


def test_the_body_waits_for_100_continue(door: Door) -> None:
    ask = b"PATCH /v1/%s HTTP/1.1\r\n" + LINE + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with door.socket(door.host) as client:
        client.sendall(ask % b"hash")
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"hello")
        assert hashlib.sha256(b"hello").hexdigest().encode() in client.recv(1000)
        client.sendall(ask % b"refuse")  # is answered at once: the body never needs to be sent
        found = replies(client)
        assert [reply[0] for reply in found] == [409]
        assert found[0][1]["connection"] == "close"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", HELLO, b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 5\r\n\r\nhel"],
    ids=["silent", "method", "header", "body"],
)
def test_a_client_that_stops_in_the_middle_is_cut(opened: Opened, sent: bytes) -> None:
    door = opened(limits=QUICK)
    with door.socket(door.host) as client:
        client.sendall(sent)
        began = time.monotonic()
        with suppress(ConnectionResetError, ssl.SSLError):
            replies(client)
        assert time.monotonic() - began < 5
    if sent.endswith(b"hel"):
        assert door.service.cut.wait(5)
        assert door.service.received == 3


def test_one_byte_at_a_time_is_too_slow(opened: Opened) -> None:
    door = opened(limits=QUICK)
    for steady in (HELLO + b"X: ", b"PATCH /v1/hash HTTP/1.1\r\n" + LINE + b"Content-Length: 50000\r\n\r\n"):
        with door.socket(door.host) as client:
            client.sendall(steady)
            began = time.monotonic()
            while not select.select([client], [], [], 0.05)[0]:  # the agent has ended it
                with suppress(OSError):
                    client.sendall(b"x")
                assert time.monotonic() - began < 5
    assert 0 < door.service.received < 1000


def test_a_paired_host_may_pause_longer_than_a_stranger(opened: Opened) -> None:
    door = opened(limits=QUICK)
    with door.connection(door.host) as client:
        client.request("GET", "/v1/hello")
        assert client.getresponse().read()
        idle = client.sock
        assert not select.select([idle], [], [], 0.9)[0]
        assert select.select([idle], [], [], 5)[0]
    with door.socket(None) as silent:
        assert select.select([silent], [], [], 1.0)[0]
