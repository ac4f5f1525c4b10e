"""Whom an agent trusts: one-time tokens, and the hosts that were paired with one. All of it lies in its state folder.

A token is ``<fingerprint of the agent's certificate>::<secret>``. The secret's hash names a file in ``tokens/``, whose
removal redeems it: of two hosts that try at once, one succeeds. A paired host is a file in ``paired/``; each request
looks whether it is still there, so a host that was unpaired is out at once, whatever connections it has open.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from hardware_profiles.agent.facts import boot_id
from hardware_profiles.certificates import FINGERPRINT, der_of, fingerprint, pem_of
from hardware_profiles.store import sync_folder, write_atomic
from hardware_profiles.wire import Malformed, parse
from spaces.errors import BadInput

TOKEN_S = 600.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES = 32


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class _Token:
    expires_s: float
    boot_id: str


class Tokens:
    """The tokens that were minted and not yet redeemed.

    Their time is that of the running kernel, suspend included: a board without a battery sets its clock by leaps. A
    token outlives a restart of the agent, not one of the device.
    """

    def __init__(self, state: Path, now: Callable[[], float] = _uptime) -> None:
        self._folder = state / "tokens"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._now = now

    def mint(self, certificate: str) -> str:
        """A new token for the certificate with this fingerprint; those that expired are removed."""
        for path in self._folder.glob("*.json"):
            if not self._is_valid(path):
                path.unlink(missing_ok=True)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        token = _Token(expires_s=self._now() + TOKEN_S, boot_id=boot_id())
        write_atomic(self._path(secret), json.dumps(asdict(token)))
        return f"{certificate}::{secret}"

    def redeem(self, secret: str) -> bool:
        """Use a token up, durably before this returns; whether it was valid. One that expired is removed."""
        path = self._path(secret)
        valid = self._is_valid(path)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(self._folder)
        return valid

    def _path(self, secret: str) -> Path:
        return self._folder / f"{hashlib.sha256(secret.encode(errors='replace')).hexdigest()}.json"

    def _is_valid(self, path: Path) -> bool:
        try:
            token = parse(_Token, path.read_bytes())
        except (OSError, Malformed):
            return False
        return token.boot_id == boot_id() and self._now() < token.expires_s


@dataclass(frozen=True, kw_only=True)
class Host:
    """A paired host; ``since`` is UTC."""

    name: str
    certificate: str
    since: str


class Paired:
    """The hosts that this agent obeys."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "paired"  # made with the first: who only looks makes nothing

    def add(self, name: str, certificate: str) -> str:
        """Pair a host, durably; the fingerprint of its certificate.

        Raises:
            ValueError: ``certificate`` is no PEM certificate, or the name is none.
        """
        if not NAME.fullmatch(name):
            raise ValueError("a host's name is up to 64 letters, digits, dots, dashes and underscores")
        der = der_of(certificate)
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        host = Host(name=name, certificate=pem_of(der), since=since)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self._folder.parent)
        write_atomic(self._path(fingerprint(der)), json.dumps(asdict(host), indent=1))
        return fingerprint(der)

    def knows(self, peer: str) -> bool:
        """Whether the host with this fingerprint is paired at this moment."""
        return bool(FINGERPRINT.fullmatch(peer)) and self._path(peer).exists()

    def hosts(self) -> dict[str, Host]:
        """All of them, by fingerprint, the oldest first.

        Raises:
            BadInput: a file is damaged.
        """
        found = {}
        for path in self._folder.glob("*.json"):
            try:
                host = parse(Host, path.read_bytes())
                if fingerprint(der_of(host.certificate)) != path.stem:
                    raise ValueError("its name is not its certificate's fingerprint")
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise BadInput(f"{path} is no paired host ({error}); remove it and pair that host again.") from None
            found[path.stem] = host
        return dict(sorted(found.items(), key=lambda one: one[1].since))

    def remove(self, name: str) -> int:
        """Unpair every host of this name, durably; how many there were."""
        gone = [peer for peer, host in self.hosts().items() if host.name == name]
        for peer in gone:
            self._path(peer).unlink(missing_ok=True)
        if gone:
            sync_folder(self._folder)
        return len(gone)

    def _path(self, peer: str) -> Path:
        return self._folder / f"{peer}.json"
