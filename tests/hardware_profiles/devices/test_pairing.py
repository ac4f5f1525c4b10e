import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.identity import Paired, Tokens
from hardware_profiles.certificates import identity_in
from hardware_profiles.devices.connection import Connection, pinned
from hardware_profiles.devices.known import find, forget, host_identity, paired_names
from hardware_profiles.devices.pairing import add_device, parse_token
from hardware_profiles.messages import JobFailed
from spaces.errors import BadInput
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import HELLO, Agent


@pytest.fixture
def stranger(tmp_path: Path, config: Path) -> Iterator[Agent]:
    """An agent that knows nobody yet."""
    running = Agent(tmp_path / "stranger")
    yield running
    running.close()


class Recorder:
    """A TLS server that keeps every byte it is sent inside TLS; ``plain``: it speaks no TLS at all."""

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        own = identity_in(folder, "impostor")
        self.fingerprint = own.fingerprint
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(own.certificate, own.key)
        self._plain = plain
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), client:
                if self._plain:
                    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    self.heard += client.recv(1 << 16)
                    continue
                with self._tls.wrap_socket(client, server_side=True) as secure:
                    while b"s" * 43 not in self.heard and (piece := secure.recv(1 << 16)):
                        self.heard += piece

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Recorder]:
    running = Recorder(tmp_path / "impostor")
    yield running
    running.close()


def test_a_token_pairs_once_and_both_sides_pin(stranger: Agent) -> None:
    token = stranger.token()
    device, hello = add_device("bench", f"127.0.0.1:{stranger.port}", token)
    assert hello == HELLO
    assert find("bench") == device
    assert device.fingerprint == stranger.identity.fingerprint
    assert list(Paired(stranger.state).hosts()) == [host_identity().fingerprint]
    forget("bench")
    with pytest.raises(BadInput, match="refused the token: used, expired or wrong"):
        add_device("again", f"127.0.0.1:{stranger.port}", token)
    assert paired_names() == ()


def test_another_certificate_than_the_tokens_hears_no_secret(impostor: Recorder, stranger: Agent) -> None:
    token = stranger.token()
    with pytest.raises(BadInput, match="nothing secret was sent"):
        add_device("bench", impostor.address, token)
    assert impostor.heard == b""
    assert paired_names() == ()
    add_device("bench", f"127.0.0.1:{stranger.port}", token)  # it was not used up


def test_the_recorder_would_have_heard_it(impostor: Recorder) -> None:
    with pytest.raises(JobFailed):
        add_device("bench", impostor.address, f"{impostor.fingerprint}::{'s' * 43}", patience_s=0)
    assert b"s" * 43 in impostor.heard


def test_a_certificate_that_changes_before_the_secret_is_sent_hears_none(
    impostor: Recorder, stranger: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address shows the right certificate first, and another one when the secret is to follow."""
    from hardware_profiles.certificates import der_of
    from hardware_profiles.devices import pairing

    monkeypatch.setattr(pairing, "_certificate_at", lambda _: der_of(stranger.identity.pem))
    with pytest.raises(JobFailed, match="shows another certificate"):
        add_device("bench", impostor.address, stranger.token(), patience_s=60)
    assert impostor.heard == b""


def test_a_reply_that_is_lost_still_pairs(stranger: Agent) -> None:
    with Proxy(stranger.port) as line:
        redeem = Tokens.redeem

        def lose(self: Tokens, secret: str) -> bool:
            valid = redeem(self, secret)
            if valid:
                line.lose_next_reply()
            return valid

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tokens, "redeem", lose)
            add_device("bench", f"127.0.0.1:{line.port}", stranger.token())
    assert paired_names() == ("bench",)


def test_an_expired_or_unknown_token_is_refused(stranger: Agent) -> None:
    with pytest.raises(BadInput, match="refused the token"):
        add_device("bench", f"127.0.0.1:{stranger.port}", f"{stranger.identity.fingerprint}::{'x' * 43}")


def test_too_many_wrong_tokens_are_told(stranger: Agent) -> None:
    wrong = f"{stranger.identity.fingerprint}::{'x' * 43}"
    for _ in range(5):
        with pytest.raises(BadInput):
            add_device("bench", f"127.0.0.1:{stranger.port}", wrong)
    with pytest.raises(JobFailed, match="too many wrong tokens; wait a minute"):
        add_device("bench", f"127.0.0.1:{stranger.port}", stranger.token())


def test_what_speaks_no_tls_is_no_agent(tmp_path: Path) -> None:
    plain = Recorder(tmp_path / "plain", plain=True)
    try:
        with pytest.raises(BadInput, match=r"is no vlmfront-agent: no TLS 1\.3"):
            add_device("bench", plain.address, f"{plain.fingerprint}::{'s' * 43}")
    finally:
        plain.close()
    assert b"s" * 43 not in plain.heard


def test_nothing_there_is_told_in_one_sentence(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(JobFailed, match=rf"nothing answers at 127\.0\.0\.1:{port} \(Connection refused\)"):
        add_device("bench", f"127.0.0.1:{port}", f"{'0' * 64}::{'s' * 43}")


@pytest.mark.parametrize(
    "token", ["", "abc", "0" * 64, f"{'0' * 64}:{'s' * 43}", f"{'g' * 64}::{'s' * 43}", f"{'0' * 64}::a b"]
)
def test_a_malformed_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(BadInput, match="FINGERPRINT::SECRET") as told:
        parse_token(token)
    assert "sss" not in str(told.value)


def test_an_unpaired_host_gets_no_further_than_the_handshake(stranger: Agent) -> None:
    address = f"127.0.0.1:{stranger.port}"
    with (
        Connection("bench", address, pinned(stranger.identity.pem, host_identity())) as connection,
        pytest.raises(JobFailed, match="does not know this host") as told,
    ):
        connection.once("GET", "/v1/hello")
    assert told.value.fault == "DEVICE_LOST"
    with (
        Connection("bench", address, pinned(stranger.identity.pem, None)) as connection,
        pytest.raises(Refused, match="UNAUTHENTICATED"),
    ):
        connection.once("GET", "/v1/hello")
    assert stranger.script.calls == []
