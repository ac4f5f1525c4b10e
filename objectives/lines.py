"""Files of JSON lines that only grow: each line whole and durable, or torn by a crash and passed over."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from hardware_profiles.store import append

T = TypeVar("T")


def lines(path: Path, kind: TypeAdapter[T]) -> Iterator[T]:
    """The records in a file, none where there is no file; lines that are not such records are passed over."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValidationError):
            yield kind.validate_json(line)


def append_line(path: Path, line: str) -> None:
    """Append one line and make it durable; a line that a crash left torn is closed first."""
    content = path.read_bytes() if path.is_file() else b""
    torn = bool(content) and not content.endswith(b"\n")
    append(path, (("\n" if torn else "") + line + "\n").encode())
