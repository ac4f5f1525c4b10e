"""The agent as a process: its state folder, what it is made of, and how it begins and ends."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hardware_profiles.agent import audit, groups
from hardware_profiles.agent.access import Access
from hardware_profiles.agent.facts import facts
from hardware_profiles.agent.identity import TOKEN_S, Tokens
from hardware_profiles.agent.listener import Listener
from hardware_profiles.agent.service import Service
from hardware_profiles.agent.state import SECRETS, VARIABLE
from hardware_profiles.agent.status import LOCK
from hardware_profiles.certificates import Identity, identity_in
from hardware_profiles.held import is_held, locked
from hardware_profiles.store import write_atomic
from hardware_profiles.wire import DEFAULT_PORT, Malformed, parse
from spaces.errors import BadInput

LOOPBACK = "127.0.0.1"
LOOPBACKS = ("127.", "::1")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What an agent says once it listens. ``fingerprint``: of its certificate."""

    host: str
    port: int
    fingerprint: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A token, and where a host can use it.

    Attributes:
        address: where the agent listens, or did last; by this machine's name where that is every address of it.
        elsewhere: the same without the name, which hosts may not know; null where no other machine can come there.
        serving: whether an agent listens now.
    """

    token: str
    address: str
    elsewhere: str | None
    serving: bool
    expires_s: float


@dataclass(frozen=True, kw_only=True)
class _Address:
    host: str
    port: int


def identity(state: Path) -> Identity:
    """The agent's own key and certificate, made at need.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)  # it may have been there: images are in it, and locks that anybody who reads them can hold
        return identity_in(state / "identity", f"vlmfront agent {socket.gethostname()}")
    except OSError as error:
        raise BadInput(f"{error.filename or state} cannot be used ({error.strerror}); name another --state.") from None


def serve(state: Path, *, host: str, port: int, disk_bytes: int, ready: Callable[[Ready], None]) -> None:
    """Serve paired hosts until SIGTERM or SIGINT; ``ready`` is called once it listens.

    Raises:
        BadInput: another agent has the folder, or the address cannot be listened on.
    """
    own = identity(state)
    os.environ[VARIABLE] = str(state)  # where its runners find the servers that they may start
    try:
        with locked(state / LOCK, exclusive=True, wait=False):
            groups.make_room()
            _sweep(state)
            asyncio.run(_serve(state, own, host, port, disk_bytes, ready))
    except BlockingIOError:
        raise BadInput(f"another agent serves {state}; stop it, or name another --state.") from None


def _sweep(state: Path) -> None:
    """Remove what an agent was writing when it was killed; the caller holds the folder."""
    for folder in (state, *(state / name for name in SECRETS)):
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)


async def _serve(
    state: Path, own: Identity, host: str, port: int, disk_bytes: int, ready: Callable[[Ready], None]
) -> None:
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    service = Service(
        state, facts=facts, limit_bytes=disk_bytes, audit=lambda event, detail: audit.note(state, event, detail=detail)
    )
    try:
        listener = Listener(Access(state, own), service)
        try:
            address, number = await listener.start(host, port)
        except (OSError, OverflowError) as error:
            raise BadInput(f"{host}:{port} cannot be listened on ({error}); name another --host or --port.") from None
        try:
            write_atomic(state / "address", json.dumps(asdict(_Address(host=address, port=number))))
            audit.note(state, "started", detail=f"{address}:{number}")
            ready(Ready(host=address, port=number, fingerprint=own.fingerprint, pid=os.getpid()))
            await stop.wait()
        finally:
            await listener.close()
    finally:
        await service.close()
    audit.note(state, "stopped")


def invite(state: Path) -> Invitation:
    """A new one-time token, whether or not the agent is serving."""
    token = Tokens(state).mint(identity(state).fingerprint)
    try:
        at = parse(_Address, (state / "address").read_bytes())
    except (OSError, Malformed):
        at = _Address(host="", port=DEFAULT_PORT)
    audit.note(state, "token made")
    everywhere = at.host in ("", "0.0.0.0", "::")
    name = socket.gethostname() if everywhere else at.host
    source = _source(at.host) if everywhere else at.host
    return Invitation(
        token=token,
        address=_joined(name, at.port),
        elsewhere=_joined(source, at.port) if source and not source.startswith(LOOPBACKS) else None,
        serving=is_held(state / LOCK),
        expires_s=TOKEN_S,
    )


def _source(host: str) -> str | None:
    """The address by which this machine talks to others; null where it has no way to them.

    It is the kernel's choice for a destination that is for documentation alone (RFC 5737, RFC 3849). Connecting a
    datagram socket sends nothing, see udp(7).
    """
    family, destination = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((destination, DEFAULT_PORT))
            return str(one.getsockname()[0])
    except OSError:
        return None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unit(state: Path, host: str, port: int, disk_bytes: int) -> str:
    """A systemd unit file for an agent that starts with the device; see systemd.exec(5) and systemd.service(5)."""
    command = f"{sys.executable} -I -m hardware_profiles.agent.cli serve"
    return f"""\
# sudo useradd --system --groups video,render vlmfront-agent
# sudo cp THIS_FILE /etc/systemd/system/vlmfront-agent.service && sudo systemctl enable --now vlmfront-agent
# sudo -u vlmfront-agent {sys.executable} -m hardware_profiles.agent.cli pair --state {state}
[Unit]
Description=vlmfront agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command} --host {host} --port {port} --state {state} --disk {disk_bytes / 1e9:g}GB
User=vlmfront-agent
StateDirectory=vlmfront-agent
StateDirectoryMode=0700
Restart=on-failure
RestartSec=2
# Where memory runs out, a runner dies before the agent, which then says so and goes on.
OOMScoreAdjust=-500
OOMPolicy=continue
# MemoryMax=6G would bound agent and runners together. Without it, each runner's own limit leaves the agent its share.
Delegate=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=-{state}
PrivateTmp=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
UMask=0077

[Install]
WantedBy=multi-user.target
"""
