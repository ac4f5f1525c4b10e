"""Cases 14 and 15: a runner that ignores SIGTERM, one that outlives SIGKILL, one that crashes."""

import gc
import os
import signal
import subprocess
from pathlib import Path

import pytest

from hardware_profiles.agent import supervisor
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Job, JobFailed, Unkillable
from tests.boards import Board, script

STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); begin();"
    "say('fault', fault='CRASH', reason='x'); time.sleep(600)"
)


def test_case_14_sigterm_ignored_is_followed_by_sigkill(timed_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.2)
    pids: list[int] = []
    with pytest.raises(JobFailed, match="CRASH: x"):
        run_job(
            timed_job,
            command=script(STUBBORN),
            heard=lambda event, content: pids.append(content["pid"]) if event == "runner" else None,
        )
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_case_14_what_outlives_sigkill_is_unkillable(timed_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in uninterruptible sleep cannot be made at will: the look whether it lives is replaced."""
    monkeypatch.setattr(supervisor, "GRACE_S", 0.05)
    monkeypatch.setattr(supervisor, "GONE_S", 0.05)
    lives = next(name for name in ("_session_lives", "_group_lives") if hasattr(supervisor, name))
    monkeypatch.setattr(supervisor, lives, lambda runner: True)
    pids: list[int] = []
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda self: None)  # it is left behind, as it would be
    with pytest.raises(Unkillable, match="outlived SIGKILL"):
        run_job(
            timed_job,
            command=script(STUBBORN),
            heard=lambda event, content: pids.append(content["pid"]) if event == "runner" else None,
        )
    assert issubclass(Unkillable, JobFailed)
    os.waitpid(pids[0], 0)
    gc.collect()


def test_case_15_a_segfault_is_a_crash_with_its_signal_and_is_not_repeated(
    timed_job: Job, board: Board, tmp_path: Path, short_waits: None
) -> None:
    runs = tmp_path / "runs"
    dies = f"open({str(runs)!r}, 'a').write('x'); begin(); import ctypes; ctypes.string_at(0)"
    with pytest.raises(JobFailed) as failed:
        measure(timed_job, command=script(dies), sensors=Sensors(board("pi4")))
    assert failed.value.fault == "CRASH"
    assert signal.SIGSEGV.name in failed.value.reason
    assert runs.read_text() == "x"
