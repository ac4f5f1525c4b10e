"""Case 17: foreign load: each attempt is invalid, and the process is named; the least disturbed is kept, labelled."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardware_profiles.agent.machine import snapshot
from hardware_profiles.agent.measure import ATTEMPTS, FINALIST_PROCESSES, measure
from hardware_profiles.agent.verdicts import Watched, on_cpu
from hardware_profiles.messages import Job
from tests.boards import script

SPINS = "print('spinning', flush=True)\nwhile True: pass"


@pytest.fixture
def intruder() -> Iterator[int]:
    """A process that keeps one processor busy; its pid."""
    process = subprocess.Popen([sys.executable, "-I", "-c", SPINS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.communicate()


def test_case_17_a_busy_neighbour_makes_every_attempt_invalid_and_is_named(
    timed_job: Job, intruder: int, short_waits: None
) -> None:
    result = measure(timed_job, command=script("begin(); work(0.5)"))
    assert result.verdict == "labelled"
    assert result.reasons[0].startswith("disturbed in each of 3 attempts: ")
    assert len(result.retries) == 2
    for said in (*result.reasons[:1], *result.retries):
        assert "foreign work took" in said
        assert f"process {intruder} ({Path(sys.executable).name}) " in said
        assert "spinning" not in said


def test_case_17_a_runner_that_has_to_wait_for_its_processor_says_so_itself(
    timed_job: Job, intruder: int, short_waits: None
) -> None:
    """However short its answers: others' work is known in ticks alone, of the warm-up and the work together."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(intruder, {cpu})
    spins = "end = time.process_time() + 0.05\nwhile time.process_time() < end: pass"
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); begin()\nwork(meanwhile=lambda: exec({spins!r}, globals()))"
    result = measure(timed_job, command=script(code))
    for said in (" ".join(result.reasons), *result.retries):
        assert "the runner waited for a processor for" in said


def test_case_17_our_own_runner_and_sampler_are_not_foreign(timed_job: Job, short_waits: None) -> None:
    """Whatever else this machine does meanwhile, neither the busy runner nor this process is named."""
    before = snapshot(Path("/"), 0)
    pids: list[int] = []
    seen: list[list[str]] = []

    def heard(event: str, content: object) -> None:
        if event == "runner":
            pids.append(content["pid"])  # type: ignore[index]
        if event == "process":
            seen.append(on_cpu(Watched(before=before, after=snapshot(Path("/"), pids[-1]))))

    busy = "begin(); end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass\nwork(0.1)"
    result = measure(timed_job, command=script(busy), heard=heard)
    named = " ".join((*result.reasons, *result.retries, *seen[0]))
    assert not any(f"process {pid} " in named for pid in pids)


def test_case_17_a_steady_neighbour_is_not_waited_for_at_every_process(
    timed_job: Job, intruder: int, short_waits: None, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    result = measure(
        timed_job, command=script(f"open({str(runs)!r}, 'a').write('x'); begin(); work(0.5)"), mode="finalist"
    )
    assert result.verdict == "labelled"
    assert len(result.processes) == FINALIST_PROCESSES
    assert runs.read_text() == "x" * (ATTEMPTS + FINALIST_PROCESSES - 1)
