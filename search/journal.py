"""The file that keeps a run's study: Optuna's journal, which a full disk or a kill leaves readable."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from hardware_profiles.store import append, write_atomic

_STALE_S = 2.0
_TICK_S = 0.05


def open_journal(journal: Path) -> JournalStorage:
    """The mended journal as a storage. The caller holds the run, so a lock of some age was left by a killed process."""
    lock = journal.with_name(f"{journal.name}.lock")
    while lock.exists():
        with suppress(FileNotFoundError):
            if abs(time.time() - lock.lstat().st_mtime) > _STALE_S:
                lock.unlink()
        time.sleep(_TICK_S)
    mend(journal)
    return JournalStorage(_Backend(str(journal), _Lock(str(journal))))


class _Lock(JournalFileOpenLock):  # type: ignore[misc]
    """Optuna's lock, released in one step whose errors are the system's."""

    def release(self) -> None:
        Path(self._lock_file).unlink(missing_ok=True)


class _Backend(JournalFileBackend):  # type: ignore[misc]
    """Appends whole records or none. After an append that failed nothing is appended behind it."""

    def __init__(self, path: str, lock: JournalFileOpenLock) -> None:
        super().__init__(path, lock)
        self._failed: OSError | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._failed is not None:
            raise OSError(self._failed.errno, self._failed.strerror, self._failed.filename)
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            self._lock.acquire()
            try:
                append(Path(self._file_path), content)
            finally:
                self._lock.release()
        except OSError as error:
            self._failed = error
            raise


def mend(journal: Path) -> None:
    """Take torn lines out of a journal: Optuna cannot read past one once something was appended behind it.

    Lines are torn by a kill while they are written, so what they would have said was never told. The journal as it was
    is kept beside the mended one, as ``.torn``.
    """
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = b"".join(_records(content.split(b"\n")))
    if whole != content:
        write_atomic(journal.with_name(f"{journal.name}.torn"), content.decode(errors="replace"))
        write_atomic(journal, whole.decode())


def _records(lines: Sequence[bytes]) -> list[bytes]:
    return [line + b"\n" for line in lines[:-1] if _is_record(line)]


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and type(record.get("op_code")) is int and isinstance(record.get("worker_id"), str)
