"""The devices that this user has paired, one private file each, and the identity that this host shows to them."""

import os
import re
import socket
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from hardware_profiles import wire
from hardware_profiles.certificates import FINGERPRINT, OWNER_ONLY, Identity, der_of, fingerprint, identity_in
from hardware_profiles.held import remove
from hardware_profiles.store import write_atomic
from hardware_profiles.wire import DEFAULT_PORT
from spaces.errors import BadInput

LOCAL = "local"
"""The name of this machine: an agent on loopback that the search starts. No paired device may have it."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class KnownDevice:
    """A paired device.

    Attributes:
        address: ``HOST:PORT``.
        certificate: the agent's, PEM: the only one that a connection to this device accepts.
        fingerprint: sha256 of that certificate, 64 hexadecimal digits.
        paired: when, ISO 8601 in UTC.
        host: under which name the device knows this host; empty where it was paired before that was kept.
    """

    name: str
    address: str
    certificate: str
    fingerprint: str
    paired: str
    host: str = ""


def home() -> Path:
    """The folder of this user's settings: ``$XDG_CONFIG_HOME/vlmfront`` (XDG Base Directory Specification)."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else Path("~/.config").expanduser()) / "vlmfront"


def host_identity() -> Identity:
    """The key and certificate by which devices know this user's host; made when there are none yet."""
    return identity_in(home() / "identity", f"vlmfront host {socket.gethostname()}")


def paired_names() -> tuple[str, ...]:
    """The names of the paired devices, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json") if _NAME.fullmatch(path.stem)))


def find(name: str) -> KnownDevice:
    """The paired device of this name.

    Raises:
        BadInput: there is none, or its file is damaged.
    """
    path = _path(name)
    try:
        known = wire.parse(KnownDevice, path.read_bytes())
        if fingerprint(der_of(known.certificate)) != known.fingerprint or not FINGERPRINT.fullmatch(known.fingerprint):
            raise ValueError("its certificate is not that of its fingerprint")
    except FileNotFoundError:
        names = ", ".join((LOCAL, *paired_names()))
        raise BadInput(f"no device is called {name!r}; use one of {names}, or pair it: vlmfront device add") from None
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); remove it and pair the device again.") from None
    return known


def remember(device: KnownDevice) -> None:
    """Keep a device that was paired just now."""
    path = _path(device.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, dumps(asdict(device), indent=1) + "\n", OWNER_ONLY)


def forget(name: str) -> str:
    """Remove a device from those known; the name under which it knows this host, empty if that is not known here.

    The agent keeps this host's certificate until its owner removes it there.

    Raises:
        BadInput: there is none of this name.
    """
    path = _path(name)
    host = ""
    try:
        host = find(name).host
    except BadInput:  # a damaged file is forgotten as well
        if not path.exists():
            raise
    remove(path)
    return host


def check_free(name: str) -> None:
    """Refuse a name that a new device cannot have.

    Raises:
        BadInput: it is no name, or it is taken.
    """
    if _path(name).exists():
        raise BadInput(f"a device called {name!r} is paired already; remove it first: vlmfront device remove {name}")


def check_unknown(certificate: str) -> None:
    """Refuse the agent with this fingerprint where it has a name: under two, a search would take it for two devices.

    Raises:
        BadInput: it has one, or a device's file is damaged.
    """
    for name in paired_names():
        if find(name).fingerprint == certificate:
            raise BadInput(
                f"this agent is paired already, as {name!r}; use that name, or remove it first: "
                f"vlmfront device remove {name}"
            )


def parse_address(text: str) -> str:
    """``HOST:PORT`` in its full form; the port is the agent's usual one where none is given.

    Raises:
        BadInput: it is no address.
    """
    host, colon, port = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else DEFAULT_PORT if not colon else 0
    if not _HOST.fullmatch(host) or not 0 < number < 1 << 16:
        raise BadInput(f"{text!r} is no address; write HOST:PORT as `vlmfront-agent pair` prints it ([HOST] for IPv6).")
    return f"{host}:{number}"


def _folder() -> Path:
    return home() / "devices"


def _path(name: str) -> Path:
    if name == LOCAL:
        raise BadInput(f"{LOCAL!r} is this machine itself; give the device another name.")
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name of a device; use 1 to 40 letters, digits, - and _.")
    return _folder() / f"{name}.json"
