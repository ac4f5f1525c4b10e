"""The one thread that runs jobs, one at a time, as long as the lease lasts under which they came.

Runners are tied to the thread that started them (PR_SET_PDEATHSIG in :mod:`hardware_profiles.agent.parent`), so it is
one thread for the agent's whole life.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hardware_profiles.agent.blobs import Blobs
from hardware_profiles.agent.confine import Confine, Plan, plan
from hardware_profiles.agent.jobs import Jobs, Record
from hardware_profiles.agent.layout import Order
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.orphans import end_orphans, mark, unmark
from hardware_profiles.agent.supervisor import Cancelled, run_job, stop_group
from hardware_profiles.messages import Answer, Answered, Fault, Job, JobFailed, Unkillable
from hardware_profiles.wire import Preflight, build

PREFLIGHT = "hardware_profiles.preflight"
PREFLIGHT_S = 600.0  # that a look at a bundle may take
_TICK_S = 0.1
_TAIL = 600  # characters of what a preflight printed last


class Worker:
    """Runs what is queued in ``jobs``. Methods are called from other threads and do not wait for the running job."""

    def __init__(
        self,
        state: Path,
        jobs: Jobs,
        blobs: Blobs,
        *,
        boot_id: str,
        command: Sequence[str],
        audit: Callable[[str, str], None],
    ) -> None:
        """Ends what an earlier agent left running, then waits for work."""
        self._state = state
        self._jobs = jobs
        self._blobs = blobs
        self._boot_id = boot_id
        self._command = command
        self._confine = Confine(hidden=(state,))
        self._audit = audit
        self._wake = threading.Condition()
        self._epoch: int | None = None
        self._running: Record | None = None
        self._cancel = threading.Event()
        self._closing = False
        self._untidy = False
        self.quarantined = ""
        try:
            if end_orphans(state, boot_id):
                audit("orphan killed", "a runner of an earlier agent was still there")
        except Unkillable as error:
            self._quarantine(error)
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def hold(self, epoch: int | None) -> None:
        """The device is held under this epoch now: a job of any other is stopped."""
        with self._wake:
            if epoch != self._epoch:
                self._epoch = epoch
                self._untidy = True
                if self._running and self._running.epoch != epoch:
                    self._cancel.set()
            self._wake.notify()

    def submitted(self) -> None:
        """A job was queued."""
        with self._wake:
            self._wake.notify()

    def cancel(self, uuid: str) -> None:
        """Stop this job, or do not begin it."""
        with self._wake:
            if self._running and self._running.uuid == uuid:
                self._cancel.set()
                return
        self._jobs.end(uuid, "cancelled")

    def close(self) -> None:
        """Stop the running job, wait until its runner is gone, and begin no other."""
        with self._wake:
            self._closing = True
            self._cancel.set()
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing:
            try:
                self._work_once()
            except Exception as error:  # without this thread, jobs would be taken in and wait for ever
                sys.excepthook(type(error), error, error.__traceback__)
        for record in self._jobs.queued():
            self._stopped(record)

    def _work_once(self) -> None:
        record = self._next()
        if record is None:
            return
        try:
            if self._cancel.is_set():
                self._stopped(record)
            elif self._jobs.start(record.uuid):
                self._run(record)
        finally:
            with self._wake:
                self._running = None
                self._untidy = True

    def _next(self) -> Record | None:
        """Wait for the next job; null when the agent ends. Files of jobs whose lease is over go meanwhile."""
        while True:
            with self._wake:
                while not (self._closing or self._untidy or self._jobs.queued()):
                    self._wake.wait()
                if self._closing:
                    return None
                if not self._untidy:
                    self._running = self._jobs.queued()[0]
                    self._cancel.clear()
                    if self._running.epoch != self._epoch:
                        self._cancel.set()
                    return self._running
                self._untidy, epoch = False, self._epoch
            for record in self._jobs.unneeded(epoch):
                self._jobs.drop_files(record.uuid)

    def _run(self, record: Record) -> None:
        assert record.order is not None
        blobs = record.order.blobs
        try:
            self._jobs.end(record.uuid, "done", "result", self._result(record, record.order))
        except Cancelled:
            self._stopped(record)
        except JobFailed as error:
            damaged = self._blobs.discard_damaged(blobs) if error.fault == "INVALID_INPUT" else []
            if damaged:  # no fault of the job's: submitted anew, it brings them again
                self._audit("blobs damaged", " ".join(damaged))
                self._fail(record, "DEVICE_LOST", f"{len(damaged)} of its files were damaged on the device's disk")
            else:
                self._fail(record, error.fault, error.reason)
            if isinstance(error, Unkillable):
                self._quarantine(error)
        except OSError as error:
            self._fail(record, "DEVICE_LOST", f"the agent cannot work: {error}")
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            self._fail(record, "DEVICE_LOST", f"the agent failed: {type(error).__name__}: {error}")
        if not self.quarantined:
            unmark(self._state)

    def _result(self, record: Record, order: Order) -> dict[str, Any]:
        """Do the work; the content of the event ``result``."""
        if order.job is None:
            return asdict(self._preflight(order.bundle))
        if order.kind == "measure":
            found = measure(
                order.job,
                mode=order.mode,
                cancel=self._cancel,
                command=self._command,
                heard=lambda event, content: self._heard(record, event, content),
                confine=self._confine,
            )
            return asdict(found)

        def pass_on(answers: Sequence[Answer]) -> bool:
            self._jobs.emit(record.uuid, "answers", {"answers": [asdict(answer) for answer in answers]})
            return False

        answered = run_job(
            order.job,
            cancel=self._cancel,
            enough=pass_on,
            command=self._command,
            heard=lambda event, content: self._heard(record, event, content),
            confine=self._confine,
        )
        assert isinstance(answered, Answered)
        result = asdict(answered)
        del result["answers"]
        return result

    def _heard(self, record: Record, event: str, content: Mapping[str, Any]) -> None:
        if event == "runner":
            mark(self._state, content["pid"], self._boot_id)
        elif event in ("phase", "process"):
            self._jobs.emit(record.uuid, event, {name: value for name, value in content.items() if name != "pid"})

    def _preflight(self, bundle: Path) -> Preflight:
        """What :func:`hardware_profiles.preflight.preflight` says of a bundle, in a process of its own."""
        look = (sys.executable, "-I", "-m", PREFLIGHT, str(bundle))
        planned = plan(Job(kind="answer", bundle=str(bundle), requests=()), look, self._confine)
        try:
            return self._look(planned)
        finally:
            if planned.group:
                planned.group.remove()

    def _look(self, planned: Plan) -> Preflight:
        looker = subprocess.Popen(
            planned.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=planned.environment,
        )
        end = time.monotonic() + PREFLIGHT_S
        with looker:
            try:
                mark(self._state, looker.pid, self._boot_id)
                while True:
                    if self._cancel.is_set():
                        raise Cancelled("the look at the bundle was cancelled")
                    if time.monotonic() > end:
                        raise JobFailed("TIMEOUT", f"the look at the bundle took longer than {PREFLIGHT_S:g} s")
                    with suppress(subprocess.TimeoutExpired):
                        said, complained = looker.communicate(timeout=_TICK_S)
                        return _preflight_in(said, complained, looker.returncode)
            finally:
                stop_group(looker)

    def _stopped(self, record: Record) -> None:
        """A job that was not carried through: because the agent ends, its lease ended, or the host asked for it."""
        if self._closing:
            self._fail(record, "DEVICE_LOST", "the agent was stopped")
        elif record.epoch != self._epoch:
            fault = {"fault": "STALE_EPOCH", "reason": "the lease ended before the job did"}
            self._jobs.end(record.uuid, "cancelled", "fault", fault)
        else:
            self._jobs.end(record.uuid, "cancelled")

    def _fail(self, record: Record, fault: Fault, reason: str) -> None:
        self._jobs.end(record.uuid, "failed", "fault", {"fault": fault, "reason": reason})

    def _quarantine(self, error: Unkillable) -> None:
        self.quarantined = error.reason
        self._audit("quarantined", error.reason)
        for record in self._jobs.queued():
            self._fail(record, "DEVICE_LOST", f"the device is quarantined: {error.reason}")


def _preflight_in(said: bytes, complained: bytes, code: int) -> Preflight:
    """The last line that a preflight printed."""
    with suppress(ValueError, IndexError):
        if code == 0:
            found: Preflight = build(Preflight, json.loads(said.splitlines()[-1]), "Preflight")
            return found
    died = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    tail = " ".join(complained.decode(errors="replace").split())[-_TAIL:]
    raise JobFailed("INVALID_INPUT" if code == 2 else "CRASH", f"the look at the bundle {died}: {tail}")
