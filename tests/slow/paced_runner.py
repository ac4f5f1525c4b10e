"""Becomes a runner that works all of the time or half of it: whole|half LOG RUNNER...

``half``: a pacer is started first, which stops the runner and lets it go on by turns, each for ``TURN_S``. It has a
process group of its own, but the runner's session, so that it belongs to the device and ends with the runner. A stopped
process is not ready to run, so nobody sees it wait for a processor: the device is slow, not shared. Each start is a
line of LOG: the process, what it was asked for, and of which bundle.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

MOST_BYTES = 1 << 22  # of a job
TURN_S = 0.004
PR_SET_PDEATHSIG = 1


def note(log: str) -> None:
    """Write down what is about to run. The job is read without taking it from the runner: stdin is a file."""
    job = json.loads(os.pread(0, MOST_BYTES, 0))
    manifest = hashlib.sha256(Path(job["bundle"], "manifest.json").read_bytes()).hexdigest()
    line = json.dumps({"pid": os.getpid(), "kind": job["kind"], "manifest": manifest}) + "\n"
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def pace(runner: int) -> None:
    """Let the runner work in every other turn until it ends; see prctl(2)."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.closerange(0, 3)
    turn = time.monotonic()
    while os.getppid() == runner:
        for order in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(runner, order)
            turn += TURN_S
            time.sleep(max(0.0, turn - time.monotonic()))


if __name__ == "__main__":
    how, written, *command = sys.argv[1:]
    note(written)
    own = os.getpid()
    if how == "half" and os.fork() == 0:
        pace(own)
        os._exit(0)
    os.execv(command[0], command)
