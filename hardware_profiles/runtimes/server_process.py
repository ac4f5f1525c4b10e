"""A server as a child of this process, in a process group of its own: started, waited for, weighed, ended."""

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from shutil import which
from typing import BinaryIO

from hardware_profiles.agent import proc
from hardware_profiles.agent.parent import TIED
from hardware_profiles.agent.servers import Server
from hardware_profiles.messages import JobFailed
from spaces.errors import BadInput

HOST = "127.0.0.1"
GRACE_S = 2.0  # between SIGTERM and SIGKILL
_LOOK_S = 0.02  # between two looks whether it is ready
_TAIL = 600  # bytes of what it printed last
_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "failed to allocate", "unable to allocate", "cannot allocate memory")


class ServerProcess:
    """A running server. It is ended by `stop`, when nobody holds this object any more, and with this process.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, server: Server, bundle: Path) -> None:
        """Start it and wait until it is ready.

        Raises:
            BadInput: the command does not exist, or the bundle lacks what it names.
            JobFailed: ``CRASH`` or ``OOM`` if it ends meanwhile, ``TIMEOUT`` if it does not get ready in time.
        """
        self._server = server
        self._kills = proc.oom_kills()
        self.port = _free_port()
        line = server.line(bundle, self.port)
        if which(line[0]) is None:
            raise BadInput(
                f"the server {server.name!r} cannot be started: {line[0]} is no program that this user may run; "
                "mend its command in the device's servers.json."
            )
        self._printed: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the child lives
        self._child = subprocess.Popen(
            (*TIED, *line), stdin=subprocess.DEVNULL, stdout=self._printed, stderr=subprocess.STDOUT
        )
        self.stop = weakref.finalize(self, _end, self._child, self._printed)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def memory_peak_bytes(self) -> int:
        """The sum of VmHWM over the processes of its group that live: pages that they share count more than once."""
        peaks = []
        for pid in _members(self._child.pid):
            try:
                peaks.append(proc.memory_peak_bytes(pid))
            except (OSError, ValueError):
                continue  # it ended between the two looks
        return sum(peaks)

    def members(self) -> int:
        """How many processes its group has."""
        return len(_members(self._child.pid))

    def check(self, patience_s: float = 0.0) -> None:
        """Raise what became of it if it has ended, or ends within ``patience_s``.

        Raises:
            JobFailed: ``CRASH``, or ``OOM`` where the kernel killed for memory or the server's last words are of it.
        """
        try:
            code = self._child.wait(patience_s) if patience_s else self._child.poll()
        except subprocess.TimeoutExpired:
            return
        if code is None:
            return
        tail = self._tail()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        reason = f"the server {self._server.name!r} {how}: {tail}"
        killed = code == -signal.SIGKILL and proc.oom_kills() > self._kills
        if killed or any(sign in tail.lower() for sign in _OUT_OF_MEMORY):
            raise JobFailed("OOM", reason)
        raise JobFailed("CRASH", reason)

    def _wait(self) -> None:
        limit = time.monotonic() + self._server.start_s
        while not self._ready():
            self.check()
            if time.monotonic() > limit:
                raise JobFailed(
                    "TIMEOUT",
                    f"load: the server {self._server.name!r} did not answer {self._server.ready} with 200 within "
                    f"{self._server.start_s:g} s: {self._tail()}",
                )
            time.sleep(_LOOK_S)
        self.check()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self._server.ready)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tail(self) -> str:
        # Not through the handle: its offset is the child's too.
        size = os.fstat(self._printed.fileno()).st_size
        start = max(0, size - _TAIL)
        return " ".join(os.pread(self._printed.fileno(), _TAIL, start).decode(errors="replace").split())


def _free_port() -> int:
    """A port that nobody listens on now. Should another take it first, the server ends and says so."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def _end(child: "subprocess.Popen[bytes]", printed: BinaryIO) -> None:
    """SIGTERM to the whole group, then SIGKILL to what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            child.send_signal(number)  # it has no group yet, or is gone
        limit = time.monotonic() + GRACE_S
        while time.monotonic() < limit and _members(child.pid):
            time.sleep(0.01)
        if not _members(child.pid):
            break
    child.wait()
    printed.close()


def _members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    return [one.pid for one in proc.processes() if one.group == group and one.runs]
