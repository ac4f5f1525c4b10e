"""Becomes a runner that has one CPU: CPU alone|shared LOG RUNNER...

``shared``: a competitor that never sleeps is started first. It has the same CPU, the same nice value and a process
group of its own, but the runner's session, so that it belongs to the device: it ends with the runner, and its work is
not foreign to the measurement. Each start is a line of LOG: the process, what it was asked for, and of which bundle.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

MOST_BYTES = 1 << 22  # of a job
PR_SET_PDEATHSIG = 1


def note(log: str) -> None:
    """Write down what is about to run. The job is read without taking it from the runner: stdin is a file."""
    job = json.loads(os.pread(0, MOST_BYTES, 0))
    manifest = hashlib.sha256(Path(job["bundle"], "manifest.json").read_bytes()).hexdigest()
    line = json.dumps({"pid": os.getpid(), "kind": job["kind"], "manifest": manifest}) + "\n"
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def compete(runner: int) -> None:
    """Use the CPU until the runner ends; see prctl(2)."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.closerange(0, 3)
    while os.getppid() == runner:
        for _ in range(1_000_000):
            pass


if __name__ == "__main__":
    cpu, how, written, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    note(written)
    own = os.getpid()
    if how == "shared" and os.fork() == 0:
        compete(own)
        os._exit(0)
    os.execv(command[0], command)
