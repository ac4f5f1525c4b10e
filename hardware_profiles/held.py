"""Files that stand for a live process: a lock is held on them for as long as it lives, however it dies.

Process ids cannot do this: two containers that share a folder number their processes each on its own.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def locked(path: Path, *, exclusive: bool, wait: bool = True) -> Iterator[TextIO]:
    """Hold the lock of a file, which is made at need.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
    """
    with path.open("a+", encoding="utf-8") as stream:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)
        yield stream


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock of this file; a file that is not there is not held."""
    mode = "r+b" if os.access(path, os.W_OK) else "rb"  # NFS locks what may be written alone; a disk may be read-only
    try:
        with path.open(mode, buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, IsADirectoryError):
        return False
    return False


def remove(path: Path) -> None:
    """Remove whatever is at a path, if anything: a folder with all that is in it, a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
