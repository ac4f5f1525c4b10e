"""Making a device known: its certificate is compared with the token before the token's secret is sent.

A token is ``<sha256 of the agent's certificate, hexadecimal>::<secret>``. It is printed on the device and typed in
here, so the way it took vouches for the certificate, as with the fingerprints of SSH.
"""

import re
import socket
import ssl
from datetime import UTC, datetime
from threading import Event

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.certificates import FINGERPRINT, fingerprint, pem_of
from hardware_profiles.devices.connection import CONNECT_S, Connection, Patience, Unreachable, pinned, refusal
from hardware_profiles.devices.hello import say_hello
from hardware_profiles.devices.known import (
    KnownDevice,
    check_free,
    check_unknown,
    host_identity,
    parse_address,
    remember,
)
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import Hello, PairRequest, dump
from spaces.errors import BadInput

PATIENCE_S = 15.0  # as in `hardware_profiles.devices.check`
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}")
_ANEW = "print a new one on the device: vlmfront-agent pair"


def add_device(name: str, address: str, token: str, *, patience_s: float = PATIENCE_S) -> tuple[KnownDevice, Hello]:
    """Pair the device at an address and keep it under a name; also what its agent says of itself.

    Raises:
        BadInput: the name, address or token is not one; the agent has a name here already; the device's certificate is
            another than the token's (nothing of the token was sent); the device refused the token; it speaks no
            protocol of ours.
        JobFailed: ``DEVICE_LOST``, nothing answers there.
    """
    check_free(name)
    address, (expected, secret) = parse_address(address), parse_token(token)
    check_unknown(expected)
    der = _certificate_at(address)
    if fingerprint(der) != expected:
        raise BadInput(
            f"the agent at {address} is not the one that printed this token: its certificate is "
            f"{fingerprint(der)[:16]}…, the token's {expected[:16]}…; nothing secret was sent, check the address."
        )
    identity, host = host_identity(), _own_name()
    asked = PairRequest(secret=secret, certificate=identity.pem, name=host)
    patience = Patience(name, cancel=Event(), limit_s=patience_s)
    _redeem(name, address, pem_of(der), asked, patience)
    with Connection(name, address, pinned(pem_of(der), identity)) as connection:
        hello = say_hello(connection, patience)
    device = KnownDevice(
        name=name,
        address=address,
        certificate=pem_of(der),
        fingerprint=expected,
        paired=datetime.now(UTC).isoformat(timespec="seconds"),
        host=host,
    )
    remember(device)
    return device, hello


def parse_token(text: str) -> tuple[str, str]:
    """A token's fingerprint and secret.

    Raises:
        BadInput: the text is no token. The message does not repeat it, since it may be a secret.
    """
    expected, colons, secret = text.strip().partition("::")
    if not colons or not FINGERPRINT.fullmatch(expected) or not _SECRET.fullmatch(secret):
        raise BadInput(f"the token is not of the form FINGERPRINT::SECRET; copy all of it, or {_ANEW}.")
    return expected, secret


def _certificate_at(address: str) -> bytes:
    """The DER of the certificate shown at an address. Nothing is sent but the handshake, and nothing is trusted yet."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as plain,
            context.wrap_socket(plain) as secure,
        ):
            der = secure.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        told = (error.reason or str(error)).lower().replace("_", " ")
        raise BadInput(f"what answers at {address} is no vlmfront-agent: no TLS 1.3 ({told}).") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise JobFailed("DEVICE_LOST", f"nothing answers at {address} ({reason}); is the agent running?") from None
    assert der is not None  # a TLS 1.3 server without pre-shared key always has one (RFC 8446, 4.4.2)
    return der


def _redeem(name: str, address: str, certificate: str, asked: PairRequest, patience: Patience) -> None:
    """Redeem the token. Where the answer is lost, the agent may have taken it: then it knows us by our certificate."""
    body = dump(asked)
    lost = False
    with Connection(name, address, pinned(certificate, None)) as connection:
        while True:
            try:
                connection.once("POST", "/v1/pair", body=body)
            except Unreachable as error:
                patience.failed(error)
                lost = True
            except Refused as error:
                if error.problem.code == "RATE_LIMITED":
                    raise JobFailed("TRANSPORT", f"{address} had too many wrong tokens; wait a minute") from None
                if error.problem.code != "UNAUTHENTICATED":
                    raise refusal(name, error) from error
                if lost:
                    return
                raise BadInput(f"the agent at {address} refused the token: used, expired or wrong; {_ANEW}.") from None
            else:
                return


def _own_name() -> str:
    """The name of this host, as far as a device takes it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:64] or "host"
