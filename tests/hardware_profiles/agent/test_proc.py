import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardware_profiles.agent import proc


def test_a_process_is_what_the_system_calls_say_of_it() -> None:
    code = "import sys; sum(range(3_000_000)); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout
        child.stdout.read(1)
        found = proc.stat(child.pid)
        assert found is not None
        assert (found.parent, found.group, found.session) == (os.getpid(), os.getpgid(child.pid), os.getsid(child.pid))
        assert found.runs
        assert child.pid in [one.pid for one in proc.processes()]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        ended = proc.stat(child.pid)
        assert ended is not None
        assert not ended.runs
        usage = os.wait4(child.pid, 0)[2]
        child.returncode = 0
    assert abs(ended.cpu_s - usage.ru_utime - usage.ru_stime) <= 3 * proc.TICK_S
    assert ended.started == found.started
    assert proc.stat(child.pid) is None


def test_a_name_may_hold_what_looks_like_fields(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "self").mkdir()
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) S 1 (b) R {fields}\n")
    (found,) = proc.processes(tmp_path)
    assert (found.pid, found.name, found.state, found.parent, found.started) == (7, "a) S 1 (b", "R", 4, 22)
    assert found.cpu_s == (14 + 15) * proc.TICK_S
    assert found.children_s == (16 + 17) * proc.TICK_S


def test_a_process_that_spins_either_runs_or_waits_for_its_processor() -> None:
    """Two that share one processor: what one ran is what the kernel bills it for, and it waited for the rest."""
    cpu = str(max(os.sched_getaffinity(0)))
    spins = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(flush=True)\nwhile True: pass"
    command = [sys.executable, "-I", "-S", "-c", spins]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as other,
    ):
        for child in (one, other):
            assert child.stdout is not None
            child.stdout.readline()
        began, before = time.monotonic(), proc.scheduled_s([one.pid])
        time.sleep(1.0)
        after, ended = proc.scheduled_s([one.pid]), time.monotonic()
        one.kill()
        other.kill()
        usage = os.wait4(one.pid, 0)[2]
        one.returncode = 0
    ran_s, waited_s = proc.at_work(before, after)
    assert ran_s + waited_s == pytest.approx(ended - began, abs=0.1)
    assert waited_s > 0.2
    assert after[one.pid][0] <= usage.ru_utime + usage.ru_stime + 3 * proc.TICK_S
    assert proc.scheduled_s([one.pid]) == {}


def test_threads_that_hardly_ran_do_not_count() -> None:
    before = {1: (1.0, 0.5), 2: (1.0, 0.0)}
    after = {1: (3.0, 0.7), 2: (1.05, 9.0), 3: (0.5, 0.25)}
    assert proc.at_work(before, after) == pytest.approx((2.5, 0.45))
    assert proc.at_work({}, {}) == (0, 0)
