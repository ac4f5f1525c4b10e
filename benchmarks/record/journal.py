"""The files of a recording: JSON lines that are on disk once they are written, and read again after a kill."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from hardware_profiles.store import append, write_atomic
from spaces.canonical import canonical_json
from spaces.errors import BadInput

FOLDER = "recording"


class Journal:
    """One file of JSON lines. A last line that a kill has torn is cut off when the file is opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = Lock()
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        self.records: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is durable when this returns. May be called from any thread."""
        line = json.dumps(record, separators=(",", ":"), allow_nan=False)
        with self._lock:
            append(self._path, line.encode() + b"\n")
            self.records.append(dict(record))


def open_recording(out: Path, identity: Mapping[str, Any]) -> Path:
    """The folder of the recording in ``out``, new or of the very same recipe.

    Raises:
        BadInput: what is recorded there is of another space, of other rows, models or another seed.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "identity.json"
    text = canonical_json(dict(identity))
    if not path.exists():
        write_atomic(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise BadInput(f"{out}: what is recorded there is of another space, other rows or models; name another folder.")
    return folder
