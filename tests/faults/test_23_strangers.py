"""Case 23: who may not come in: bad tokens, wrong certificates, plain text; and a job that is sent a second time.

Each is refused, each leaves a line in the audit log, and no secret goes to anyone but the agent that made it.
"""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.identity import Paired
from hardware_profiles.certificates import identity_in
from hardware_profiles.devices.connection import Connection, pinned
from hardware_profiles.devices.known import paired_names
from hardware_profiles.devices.pairing import add_device
from hardware_profiles.devices.upload import pack
from hardware_profiles.messages import JobFailed
from spaces.errors import BadInput
from tests.faults.bench import LOOPBACK, Bench, asked, until
from tests.faults.hosts import Host

LEASE = "00000000-0000-4000-8000-000000000001"
JOB = "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def stranger(tmp_path: Path) -> Host:
    """A host that no device knows."""
    return Host(tmp_path / "stranger")


def add(bench: Bench, host: Host, token: str, address: str = "") -> None:
    with host.at_home():
        add_device("bench", address or f"{LOOPBACK}:{bench.port}", token, patience_s=5.0)


def token_of(bench: Bench, **settings: float) -> str:
    """What ``vlmfront-agent pair`` prints."""
    made = subprocess.run(bench.command("pair", "--json", **settings), capture_output=True, text=True, check=True)
    token: str = json.loads(made.stdout)["token"]
    return token


def kept(bench: Bench, secret: str) -> list[Path]:
    """What the agent has written that holds this text."""
    return [path for path in bench.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_case_23_a_token_that_is_used_expired_or_wrong_is_refused_and_then_rate_limited(
    bench: Bench, stranger: Host, tmp_path: Path
) -> None:
    token, expired = token_of(bench), token_of(bench, token_s=0.0)
    add(bench, stranger, token)
    assert stranger.identity.fingerprint in Paired(bench.state).hosts()
    assert bench.audit("paired")[0].endswith(stranger.identity.fingerprint)
    certificate = token.partition("::")[0]
    for number, tried in enumerate((token, expired, f"{certificate}::{'x' * 43}", token, expired)):
        late = Host(tmp_path / f"late {number}")
        with pytest.raises(BadInput, match="refused the token: used, expired or wrong"):
            add(bench, late, tried)
        assert late.identity.fingerprint not in Paired(bench.state).hosts()
        assert len(bench.audit("wrong token")) == number + 1
    with pytest.raises(JobFailed, match="too many wrong tokens; wait a minute"):
        add(bench, late, token_of(bench))
    assert len(bench.audit("rate limited")) == 1
    assert len(bench.audit("wrong token")) == 5
    assert kept(bench, token.partition("::")[2]) == kept(bench, expired.partition("::")[2]) == []


class Impostor:
    """A TLS server with a certificate of its own at the device's address, which keeps what it is sent."""

    def __init__(self, folder: Path) -> None:
        own = identity_in(folder, "impostor")
        self.pem, self.heard, self.handshakes = own.pem, b"", 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(own.certificate, own.key)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with suppress(OSError), client, self._tls.wrap_socket(client, server_side=True) as secure:
                    self.handshakes += 1
                    while piece := secure.recv(1 << 16):
                        self.heard += piece

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    running = Impostor(tmp_path / "impostor")
    yield running
    running.close()


def test_case_23_another_certificate_hears_no_secret_and_no_job(
    bench: Bench, host: Host, stranger: Host, impostor: Impostor
) -> None:
    token = token_of(bench)
    with pytest.raises(BadInput, match="nothing secret was sent"):
        add(bench, stranger, token, f"{LOOPBACK}:{impostor.port}")
    with stranger.at_home():
        assert paired_names() == ()
    host.remember(bench, impostor.port)  # a host that was paired before, too
    with pytest.raises(JobFailed, match="shows another certificate than the one it was paired with"), host.open():
        pass
    assert impostor.handshakes == 1  # the look at the certificate; the paired host ends the handshake itself
    assert impostor.heard == b""
    add(bench, stranger, token)  # nobody has used it


def test_case_23_a_host_that_is_not_paired_gets_no_answer(bench: Bench, stranger: Host) -> None:
    for own, event in ((stranger.identity, "no handshake"), (None, "not paired")):
        with (
            Connection("bench", f"{LOOPBACK}:{bench.port}", pinned(bench.identity.pem, own)) as connection,
            pytest.raises((JobFailed, Refused), match=r"does not know this host|UNAUTHENTICATED"),
        ):
            connection.once("PUT", f"/v1/jobs/{JOB}", body=b"{}", headers={"Lease-Epoch": "1"})
        until(partial(bench.audit, event))  # the client may hear of it first
        assert len(bench.audit(event)) == 1
    assert bench.audit("not paired") == [f"PUT /v1/jobs/{JOB}"]
    assert list((bench.state / "jobs").iterdir()) == []


def test_case_23_a_host_that_was_unpaired_is_out_at_once(bench: Bench, host: Host) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        subprocess.run(bench.command("unpair", "host"), check=True, capture_output=True)
        assert call.refused("PUT", f"/v1/leases/{LEASE}") == (401, "UNAUTHENTICATED")
    assert bench.audit("unpaired") == ["host"]
    assert bench.audit("not paired") == [f"PUT /v1/leases/{LEASE}"]


def test_case_23_plain_text_is_not_answered(bench: Bench) -> None:
    with socket.create_connection((LOOPBACK, bench.port), timeout=10) as plain:
        plain.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: bench\r\n\r\n")
        heard = b""
        with suppress(ConnectionResetError):
            while piece := plain.recv(1 << 16):
                heard += piece
    assert b"HTTP" not in heard
    assert len(heard) < 16  # an alert of TLS at most: RFC 8446, 5.1 and 6
    assert bench.audit("no handshake") == ["HTTP_REQUEST"]


def test_case_23_a_job_that_was_acknowledged_is_not_done_again(
    bench: Bench, host: Host, bundle: Path, image: Path
) -> None:
    packed = pack("answer", bundle, asked(image))
    with host.calls(bench) as call:
        call.take(LEASE)
        call.submit(JOB, packed)
        assert call.last(JOB)["event"] == "result"
        call("PUT", f"/v1/jobs/{JOB}/acknowledged")
        assert call.refused("PUT", f"/v1/jobs/{JOB}", packed.body) == (409, "REPLAYED")
        line = f"job {JOB} of {host.identity.fingerprint[:16]}"
        assert bench.audit("job replayed") == [line]
    bench.kill()
    bench.start()
    with host.calls(bench) as call:  # an agent that was started again remembers
        call.take(LEASE)
        assert call.refused("PUT", f"/v1/jobs/{JOB}", packed.body) == (409, "REPLAYED")
    assert bench.audit("job replayed") == [line, line]
    assert len(bench.executions()) == 1
