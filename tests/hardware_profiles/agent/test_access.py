import json
import select
import socket
import ssl
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hardware_profiles.agent.access import LINE_S, MOST_LINES, Access
from hardware_profiles.agent.http import PAIR_BYTES
from hardware_profiles.agent.identity import Paired, Tokens
from hardware_profiles.certificates import Identity, identity_in
from hardware_profiles.wire import PairRequest, dump
from tests.door import PATIENT, Door, Opened, replies

HELLO = b"GET /v1/hello HTTP/1.1\r\nHost: agent\r\n"


def pairing(token: str, host: Identity, name: str = "laptop") -> bytes:
    return dump(PairRequest(secret=token.partition("::")[2], certificate=host.pem, name=name))


def test_a_paired_host_is_served_and_named_by_its_certificate(door: Door) -> None:
    status, _, document = door.call(door.host, "GET", "/v1/hello?after=3&wait=")
    assert (status, document) == (200, {"hello": 1})
    asked = door.service.asked[0]
    assert (asked.peer, asked.path, asked.query) == (door.host.fingerprint, "/v1/hello", {"after": "3", "wait": ""})


def test_without_a_certificate_there_is_pairing_alone(door: Door) -> None:
    for method, path in (("GET", "/v1/hello"), ("PUT", "/v1/jobs/x"), ("GET", "/v1/pair"), ("GET", "/")):
        status, headers, problem = door.call(None, method, path, body=b"" if method == "PUT" else None)
        assert (status, problem["code"], headers["connection"]) == (401, "UNAUTHENTICATED", "close")
    assert door.service.asked == []
    assert door.events() == ["not paired"] * 4
    assert door.audit()[0]["peer"] == "127.0.0.1"
    assert door.audit()[1]["detail"] == "PUT /v1/jobs/x"


def test_an_unpaired_certificate_fails_in_the_handshake(door: Door) -> None:
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        door.call(door.stranger, "GET", "/v1/hello")
    door.close()
    assert door.service.asked == []
    assert door.events() == ["no handshake"]
    assert door.audit()[0]["detail"] == "CERTIFICATE_VERIFY_FAILED"


def test_plain_text_and_older_tls_are_refused_and_logged(door: Door) -> None:
    with socket.create_connection(door.address, timeout=10) as plain:
        plain.sendall(HELLO + b"\r\n")
        with suppress(ConnectionResetError):
            assert plain.recv(1000)[:1] in (b"", b"\x15")  # nothing, or a TLS alert
    old = door.tls(door.host)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(door.address, timeout=10) as plain, pytest.raises(ssl.SSLError, match="version"):
        old.wrap_socket(plain, server_hostname="agent")
    door.close()
    door.close()  # which waits for what is still to be written
    assert door.service.asked == []
    assert door.events() == ["no handshake"] * 2
    assert [line["detail"] for line in door.audit()] == ["HTTP_REQUEST", "UNSUPPORTED_PROTOCOL"]


def test_pairing_works_at_once_and_once(opened: Opened) -> None:
    door = opened(paired=False)
    token = Tokens(door.state).mint(door.agent.fingerprint)
    assert door.call(None, "POST", "/v1/pair", pairing(token, door.host))[0] == 204
    assert door.call(door.host, "GET", "/v1/hello")[0] == 200
    status, _, problem = door.call(None, "POST", "/v1/pair", pairing(token, door.stranger))
    assert (status, problem["code"]) == (401, "UNAUTHENTICATED")
    assert Paired(door.state).hosts().keys() == {door.host.fingerprint}
    assert door.events() == ["paired", "wrong token"]
    secret = token.partition("::")[2]
    kept = [path for path in door.state.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")]
    assert kept == []


def test_wrong_tokens_are_bounded_and_a_right_one_waits_too(opened: Opened) -> None:
    now = [0.0]
    door = opened(paired=False, clock=lambda: now[0])
    token = Tokens(door.state).mint(door.agent.fingerprint)
    for _ in range(5):
        assert door.call(None, "POST", "/v1/pair", pairing("x::wrong", door.host))[0] == 401
        now[0] += 10
    for body in (pairing("x::wrong", door.host), pairing(token, door.host)):
        status, headers, problem = door.call(None, "POST", "/v1/pair", body)
        assert (status, problem["code"], headers["retry-after"]) == (429, "RATE_LIMITED", "10")
    now[0] = 60.0
    assert door.call(None, "POST", "/v1/pair", pairing(token, door.host))[0] == 204
    assert door.events() == ["wrong token"] * 5 + ["rate limited"] * 2 + ["paired"]
    assert "wrong" not in json.dumps([line["detail"] for line in door.audit()])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no JSON"),
        (b"[]", "an object is expected"),
        (b'{"secret":"s","certificate":"c"}', "name"),
        (b'{"secret":"s","certificate":"no certificate","name":"n"}', "the certificate is none in PEM form (RFC 7468)"),
        (b'{"secret":"s","certificate":"\\ud800","name":"n"}', "the certificate is none in PEM form (RFC 7468)"),
        (
            b'{"secret":"s","certificate":"-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----","name":"n"}',
            "the certificate is none in PEM form (RFC 7468)",
        ),
        (b'{"secret":"s","certificate":"c","name":"../n"}', "letters"),
    ],
)
def test_a_malformed_pairing_says_what_is_wrong(door: Door, body: bytes, words: str) -> None:
    status, _, problem = door.call(None, "POST", "/v1/pair", body)
    assert (status, problem["code"]) == (400, "MALFORMED")
    assert words in problem["message"]
    assert "http" not in problem["message"]


def test_of_what_a_pairing_sends_the_certificate_alone_counts(opened: Opened) -> None:
    door = opened(paired=False)
    token = Tokens(door.state).mint(door.agent.fingerprint)
    sent = PairRequest(
        secret=token.partition("::")[2], certificate=f"ä\n{door.host.pem}{door.stranger.pem}", name="laptop"
    )
    assert door.call(None, "POST", "/v1/pair", dump(sent))[0] == 204
    assert door.call(door.host, "GET", "/v1/hello")[0] == 200
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        door.call(door.stranger, "GET", "/v1/hello")


def test_unpairing_ends_open_connections_and_a_restart_keeps_the_others(opened: Opened) -> None:
    door = opened()
    with door.connection(door.host) as client:
        client.request("GET", "/v1/hello")
        assert client.getresponse().read()
        assert opened(paired=False).call(door.host, "GET", "/v1/hello")[0] == 200  # a second agent on the same folder
        assert Paired(door.state).remove("host") == 1
        client.request("GET", "/v1/hello")
        assert client.getresponse().status == 401
    assert door.call(door.host, "GET", "/v1/hello")[0] == 401
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        opened(paired=False).call(door.host, "GET", "/v1/hello")


def test_a_stranger_may_send_little(door: Door) -> None:
    long = b"POST /v1/pair HTTP/1.1\r\n" + b"Host: agent\r\n" + b"Content-Length: %d\r\n\r\n" % (PAIR_BYTES + 1)
    with door.socket(None) as client:
        client.sendall(long)
        assert [reply[0] for reply in replies(client)] == [413]


def test_strangers_cannot_keep_a_paired_host_out(opened: Opened) -> None:
    door = opened(limits=replace(PATIENT, connections=4))
    with ExitStack() as many:
        crowd = [many.enter_context(socket.create_connection(door.address, timeout=10)) for _ in range(3)]
        crowd += [many.enter_context(door.socket(None)) for _ in range(3)]
        hosts = [many.enter_context(door.connection(door.host)) for _ in range(4)]
        for client in hosts:
            client.request("GET", "/v1/hello")
            assert client.getresponse().read()
        ended = select.select(crowd, [], [], 0)[0]
        assert len(ended) == len(crowd)
        with pytest.raises((ssl.SSLError, ConnectionError)):  # all are paired hosts' now: no more
            door.call(door.host, "GET", "/v1/hello")
        for client in hosts:
            client.request("GET", "/v1/hello")
            assert client.getresponse().read()
    assert "too many connections" in door.events()


def test_closing_the_door_ends_every_connection(opened: Opened) -> None:
    door = opened()
    with door.socket(door.host) as idle, socket.create_connection(door.address, timeout=10) as silent:
        idle.sendall(HELLO + b"\r\n")
        assert b"200" in idle.recv(1000)
        door.close()
        for client in (idle, silent):
            with suppress(ConnectionResetError, ssl.SSLError):
                assert client.recv(1000) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(door.address, timeout=10)


def test_strangers_cannot_push_out_what_the_log_says(tmp_path: Path) -> None:
    now = 0.0
    access = Access(tmp_path, identity_in(tmp_path / "identity", "agent"), now=lambda: now)
    log = tmp_path / "audit.jsonl"
    for number in range(1000):
        access.refusal("10.0.0.1", f"GET /{number}")
    assert len(log.read_text().splitlines()) == MOST_LINES
    now = LINE_S
    for number in range(2):
        access.refusal("10.0.0.2", f"GET /{number}" + "x" * 1000)
    *_, last = map(json.loads, log.read_text().splitlines())
    assert len(log.read_text().splitlines()) == MOST_LINES + 1
    assert last["detail"].startswith("GET /0x")
    assert last["detail"].endswith(f"; {1000 - MOST_LINES} lines were left out before this one")
