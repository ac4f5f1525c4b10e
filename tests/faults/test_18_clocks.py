"""Case 18: the clock is set, or the machine sleeps: timing is monotonic, and after a sleep there is no figure."""

import itertools

import pytest

from hardware_profiles.agent import machine
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.messages import Job
from tests.boards import Board, script


@pytest.mark.parametrize(
    ("asleep_s", "wall_s", "verdict", "said"),
    [
        (30.0, 30.0, "invalid", "the machine was suspended for 30.0 s"),
        (0.0, -3600.0, "labelled", "disturbed in each of 3 attempts: the wall clock jumped by -3600.0 s"),
    ],
)
def test_case_18_suspend_or_clock_step_between_warmup_and_the_last_answer(
    timed_job: Job,
    board: Board,
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    asleep_s: float,
    wall_s: float,
    verdict: str,
    said: str,
) -> None:
    """Each clock reading is another ``asleep_s`` and ``wall_s`` on, as if it had happened since the last one."""
    real, count = machine._clocks, itertools.count()

    def shifted() -> tuple[float, float, float]:
        monotonic, asleep, wall = real()
        number = next(count)
        return monotonic, asleep + number * asleep_s, wall + number * wall_s

    monkeypatch.setattr(machine, "_clocks", shifted)
    result = measure(timed_job, command=script("begin(); work(0.05)"), sensors=Sensors(board("pi4")))
    assert result.verdict == verdict
    assert result.reasons == (said,)
    assert result.timings[0].e2e_ms == 10.0
    assert 0.05 <= result.processes[0].ended_s - result.processes[0].began_s < 5


def test_case_18_an_undisturbed_clock_is_no_reason(timed_job: Job, board: Board, short_waits: None) -> None:
    result = measure(timed_job, command=script("begin(); work()"), sensors=Sensors(board("pi4")))
    assert (result.verdict, result.reasons, result.retries) == ("valid", (), ())
