"""The agent on this machine, which a search starts as its own child, so that it measures here as it does elsewhere.

Its state, its certificate and the host's are made for it alone in a folder of the cache, and go when it is closed; a
folder whose process was killed goes when the next agent is started. Nobody else is paired with it.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from hardware_profiles.agent.identity import Paired
from hardware_profiles.agent.servers import handed_down
from hardware_profiles.certificates import identity_in
from hardware_profiles.held import is_held, locked, remove
from hardware_profiles.messages import JobFailed

SERVE = (sys.executable, "-I", "-m", "hardware_profiles.agent.cli", "serve", "--with-parent", "--json")
_START_S = 120.0  # it asks the runtimes for accelerators first, which may load much
_STOP_S = 15.0  # longer than a runner is given to end
_RESTARTS = 3  # of an agent that dies under us: as often as a lost job is submitted anew (`remote.RESUBMITS`)
_LOG = "agent.log"
_WORDS = 600  # characters of what it said last, at most


class LocalAgent:
    """A running agent. ``address`` is where it listens; ``identity`` is what it takes for its one host."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self.folder = self._held.enter_context(_scratch())
        self.identity = identity_in(self.folder / "host", "vlmfront search")
        self._own = identity_in(self.folder / "state" / "identity", "vlmfront agent")
        Paired(self.folder / "state").add("search", self.identity.pem)
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: Future[str] = Future()
        # The kernel ties the child to this thread (prctl(2), PR_SET_PDEATHSIG), so the thread lives as long as it.
        self._keeper = threading.Thread(target=self._keep, name="local agent", daemon=True)
        self._keeper.start()
        try:
            self.address = self._ready.result(_START_S)
        except (Late, JobFailed) as error:
            told = error.reason if isinstance(error, JobFailed) else f"it said nothing for {_START_S:.0f} s"
            self.close()
            raise JobFailed("DEVICE_LOST", f"the agent on this machine did not start: {told}") from None

    @property
    def certificate(self) -> str:
        """Its certificate, PEM."""
        return self._own.pem

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def close(self) -> None:
        """Stop it with its runners, and remove its folder."""
        self._closing.set()
        if process := self._process:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._keeper.join(_STOP_S)
        self._held.close()

    def _keep(self) -> None:
        """Run the agent, and again under the same address where it ends by itself; its journal says what was lost."""
        port = 0
        for _ in range(1 + _RESTARTS):
            with (self.folder / _LOG).open("ab") as log, self._start(port, log) as process:
                self._process = process
                if self._closing.is_set():
                    process.terminate()
                assert process.stdout is not None
                try:
                    heard = json.loads(process.stdout.readline())
                    port = int(heard["port"])
                except (ValueError, TypeError, KeyError):
                    process.kill()
                    break
                if not self._ready.done():
                    self._ready.set_result(f"{heard['host']}:{port}")
                process.wait()
            if self._closing.is_set():
                return
        if not self._ready.done():
            self._ready.set_exception(JobFailed("DEVICE_LOST", self._last_words()))

    def _start(self, port: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        """A process of its own session: Ctrl-C in the terminal is for the search, which then ends it in good order.

        Its state is a scratch folder, so it is handed the servers that the owner of this machine has listed.
        """
        command = [*SERVE, "--port", str(port), "--state", str(self.folder / "state")]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **handed_down()},
        )

    def _last_words(self) -> str:
        said = (self.folder / _LOG).read_text(encoding="utf-8", errors="replace").split()
        return " ".join(said)[-_WORDS:] or "it said nothing"


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, and after a kill at the next start, when nobody holds its lock."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = (given if given.is_absolute() else Path("~/.cache").expanduser()) / "vlmfront" / "agents"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as held:
        with locked(root / "lock", exclusive=True):
            for left in root.iterdir():
                if left.is_dir() and not is_held(left / "held"):
                    remove(left)
            folder = Path(mkdtemp(dir=root))
            held.enter_context(locked(folder / "held", exclusive=True))
        try:
            yield folder
        finally:
            remove(folder)
