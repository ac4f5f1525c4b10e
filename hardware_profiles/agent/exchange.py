"""One call of the wire inside the agent: what was asked, what is replied, or why it is refused. Pure values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hardware_profiles.wire import Code, Problem


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request whose sender is known; its body comes apart.

    Attributes:
        path: without the query, as it was sent (``/v1/hello``).
        headers: names in lower case.
        length: bytes of the body that follows.
        peer: sha256 of the client's certificate, 64 hexadecimal digits.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int = 0
    peer: str


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer below 400."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer of 400 or above."""

    def __init__(self, status: int, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{problem.code}: {problem.message}")
        self.status = status
        self.problem = problem
        self.headers = headers or {}


def refused(
    status: int, code: Code, message: str, expected: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> Refused:
    """A refusal, ready to be raised."""
    return Refused(status, Problem(code=code, message=message, expected=tuple(expected)), headers)
