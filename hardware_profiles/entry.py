"""What a store knows of one artifact, and how it is read back from a file that may be damaged."""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from spaces.canonical import read_json

_LONGEST_S = 1e12
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored artifact.

    Attributes:
        key: what it was asked for by; the digest of everything that went into it.
        stage: name of the stage that made it.
        files: relative path -> sha256 of its content.
        sizes: relative path -> bytes.
        seconds: what making it cost.
        checks: results of the gates it passed.
    """

    key: str
    stage: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    seconds: float
    checks: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0


def read_entry(path: Path) -> Entry | None:
    """The entry in a file; null where it is damaged or not there."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        entry = Entry(**read_json(path.read_bytes()))
        whole = (
            entry.key == path.stem
            and entry.files.keys() == entry.sizes.keys()
            and all(_SHA.fullmatch(sha) for sha in entry.files.values())
            and all(type(size) is int for size in entry.sizes.values())
            and not any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in entry.files)
            and all(
                type(number) in (int, float) and 0 <= number < _LONGEST_S for number in (entry.seconds, entry.created)
            )
            and isinstance(entry.stage, str)
            and isinstance(entry.checks, dict)
        )
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return entry if whole else None
