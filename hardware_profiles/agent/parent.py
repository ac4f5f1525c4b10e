"""The tie of a worker process to the one that started it; and, run by its path, a child that is tied and then another.

``python -I -S parent.py COMMAND...``: in a process group of its own, ended with the thread that started it. Linux only.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

TIED = (sys.executable, "-I", "-S", str(Path(__file__)))
"""Before a command. A program rather than a ``preexec_fn``, which may deadlock in a process with threads (subprocess,
Python documentation); the tie survives execve(2), see PR_SET_PDEATHSIG(2const)."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that started it ends; see prctl(2)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    os.setpgid(0, 0)
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
