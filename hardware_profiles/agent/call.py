"""One call with the name in its path, and what it says as checked values: what is wrong is refused with 400."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from hardware_profiles.agent.exchange import Asked, refused
from hardware_profiles.wire import DIGEST, EPOCH_HEADER, JSON_BYTES, MOST_WAIT_S, UUID, Malformed, parse

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Call:
    """What was asked, its body as it comes, and ``name``: the uuid or digest in its path, empty where it has none."""

    asked: Asked
    body: AsyncIterator[bytes]
    name: str = ""

    @property
    def uuid(self) -> str:
        if not UUID.fullmatch(self.name):
            raise refused(400, "MALFORMED", f"{self.name[:60]!r} is no uuid in lower case.")
        return self.name

    @property
    def sha(self) -> str:
        """The 64 hexadecimal digits of a digest."""
        if not DIGEST.fullmatch(self.name):
            raise refused(400, "MALFORMED", f"{self.name[:90]!r} is no digest: sha256: and 64 digits in lower case.")
        return self.name.removeprefix("sha256:")

    @property
    def epoch(self) -> int:
        return self.header(EPOCH_HEADER)

    def header(self, name: str) -> int:
        """The whole number in a header."""
        return _whole_number(name, self.asked.headers.get(name.lower(), ""))

    @property
    def after(self) -> int:
        """The number of the last event that the host has."""
        return _whole_number("after", self.asked.query.get("after", "0"))

    @property
    def wait_s(self) -> float:
        """Seconds that the host would wait for an event, at most ``MOST_WAIT_S``."""
        text = self.asked.query.get("wait", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not seconds >= 0:
            raise refused(400, "MALFORMED", f"wait is {text[:30]!r}; give seconds.")
        return min(seconds, MOST_WAIT_S)

    async def whole_body(self) -> bytes:
        """A body of control."""
        came = bytearray()
        async for chunk in self.body:
            came += chunk
            if len(came) > JSON_BYTES:
                raise refused(413, "OVER_LENGTH", f"a body of control has at most {JSON_BYTES} bytes.")
        return bytes(came)


def message(kind: type[T], body: bytes) -> T:
    """The message in a body."""
    try:
        return parse(kind, body)
    except Malformed as error:
        raise refused(400, "MALFORMED", f"{error}.") from None


def _whole_number(name: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise refused(400, "MALFORMED", f"{name} is {text[:30]!r}; give a whole number.")
    return int(text)
