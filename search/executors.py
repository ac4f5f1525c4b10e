"""In-process executor: each worker thread has one process that builds stages; a crash there is a failed trial."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from types import TracebackType

from hardware_profiles.agent.parent import die_with_parent
from hardware_profiles.agent.proc import stat
from hardware_profiles.store import DISK_ERRORS, Entry, Gone
from search.build import Stage, build_stage
from spaces.errors import StageFailed


class Interrupted(Exception):
    """The search was told to stop while this piece of work ran."""


class Builder:
    """Builds stages in a process of its own, which is started at need, replaced after a crash and killed on a stop."""

    def __init__(self, store_root: Path, stop: Event) -> None:
        self._store_root = store_root
        self._stop = stop
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0

    def run(self, stage: Stage) -> tuple[Entry, bool]:
        """The stage's entry and whether it was reused.

        Raises:
            StageFailed: the stage refused, raised something else, or took its process down.
            OSError: the disk is full, read-only or broken, which is no fault of the candidate.
            Gone: its input went away meanwhile; the candidate is to be built again from its first stage.
            Interrupted: `kill` was called meanwhile.
        """
        try:
            return self._start().submit(build_stage, stage, self._store_root).result()
        except (StageFailed, Interrupted, Gone):
            raise
        except BrokenProcessPool:
            self.kill()
            if self._stop.is_set():
                raise Interrupted from None
            raise StageFailed(f"{stage.axis}: the process that built it died; memory may have run out") from None
        except Exception as error:
            if self._stop.is_set():
                raise Interrupted from None
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            raise StageFailed(f"{stage.axis}: {type(error).__name__}: {_first_line(error)}") from error

    @property
    def cpu_s(self) -> float:
        """Processor seconds that its present process has used so far; 0.0 where none runs."""
        with self._lock:
            found = stat(self._pid) if self._pool else None
        return found.cpu_s if found else 0.0

    def kill(self) -> None:
        """End the process at once, whatever it does; the store stays whole."""
        with self._lock:
            if self._pool is None:
                return
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Builder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._stop.is_set():
                raise Interrupted
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(os.getpid(),))
                # Ctrl-C goes to the whole group, but is for the main thread: the new process inherits this mask. Making
                # the pool has started the resource tracker, which would lift it again.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                self._pid = self._pool.submit(os.getpid).result()
            return self._pool


def _prepare(parent: int) -> None:
    """Make a worker process a good citizen: one thread, no network, no telemetry, silent, dead when its parent is."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DO_NOT_TRACK": "1",
    }
    from tqdm.std import TqdmDefaultWriteLock

    TqdmDefaultWriteLock.mp_lock = None  # else a semaphore that outlives a killed process
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
