"""Making a folder that appears whole or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hardware_profiles.store import DISK_ERRORS, sync_folder
from spaces.errors import BadInput

DISK_FAILS = DISK_ERRORS - {errno.EROFS}
"""What is no fault of the place that was named: the disk is full, over its quota, or broken."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A draft folder beside ``path`` that takes its name when the block ends well and is gone when it does not.

    Missing parents are made, and go again with the draft.

    Raises:
        BadInput: there is something at ``path`` already, or the file system refuses.
        OSError: the disk is full or broken.
    """
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path}: there is something of that name already; choose another name.")
    made: list[Path] = []
    draft: Path | None = None
    try:
        made = _make_parents(path.parent)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        draft.chmod(0o755)
        yield draft
        draft.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        if isinstance(error, OSError) and error.errno not in DISK_FAILS:
            raise BadInput(f"{path}: the folder cannot be made here ({error.strerror or error}).") from None
        raise


def refuse_read_only(folder: Path) -> None:
    """Refuse a folder marked read-only, also for an administrator, whom the system would let in.

    Raises:
        PermissionError: it is marked so.
    """
    writable = stat.S_IMODE(folder.stat().st_mode) & 0o222
    if not writable or not os.access(folder, os.W_OK):
        raise PermissionError(13, f"{folder} is read-only")


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder with its parents; those that were missing, innermost first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    refuse_read_only((missing[-1].parent if missing else folder).resolve())
    made: list[Path] = []
    try:
        for parent in reversed(missing):
            parent.mkdir()
            made.insert(0, parent)
    except OSError:
        for parent in made:
            parent.rmdir()
        raise
    return made
