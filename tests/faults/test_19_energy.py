"""Case 19: the energy sensor is absent, denied, fails or wraps: null and the reason; a wrap is corrected."""

from pathlib import Path

import pytest

from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.messages import Job
from tests.boards import Board, lets_go, script

PACKAGE = "sys/class/powercap/intel-rapl:{}/energy_uj"
RANGE = 262143328850


def spends(root: Path, package: int, after_uj: int) -> tuple[str, ...]:
    """A runner during whose work the counter moves on; slow enough that the trace sees it before the end."""
    counter = str(root / PACKAGE.format(package))
    new = f"{counter}.new"
    moves = f"(put({new!r}, {after_uj}), Path({new!r}).rename({counter!r}))"
    return script(f"begin(); work(0.6, meanwhile=lambda: {moves})", root / "go")


def test_case_19_absent(timed_job: Job, board: Board, short_waits: None) -> None:
    result = measure(timed_job, command=script("begin(); work()"), sensors=Sensors(board("pi4")))
    assert result.energy_j is None
    assert result.processes[0].idle_w is None
    assert result.energy_source.startswith("none: this machine has no RAPL counter")


def test_case_19_denied(timed_job: Job, board: Board, short_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no mode denies anything: the denial itself is made up."""
    root, real = board("xeon"), Path.read_text

    def denied(path: Path, *arguments: object, **more: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", denied)
    result = measure(timed_job, command=script("begin(); work()"), sensors=Sensors(root))
    assert result.energy_j is None
    assert f"{root / PACKAGE.format(0)} may not be read" in result.energy_source


def test_case_19_a_counter_gives_joules_above_idle(timed_job: Job, board: Board, short_waits: None) -> None:
    root = board("xeon")
    spent = spends(root, 1, 5_000_000 + 22_000_000)
    result = measure(timed_job, command=spent, sensors=Sensors(root), heard=lets_go(root / "go"))
    assert result.energy_source == "rapl"
    assert result.processes[0].idle_w == 0.0
    assert result.energy_j == pytest.approx(22 / 11, rel=1e-3)


def test_case_19_a_wrap_is_corrected(timed_job: Job, board: Board, short_waits: None) -> None:
    root = board("xeon")
    (root / PACKAGE.format(0)).write_text(str(RANGE - 10_000_000))
    spent = spends(root, 0, 1_000_000)
    result = measure(timed_job, command=spent, sensors=Sensors(root), heard=lets_go(root / "go"))
    assert result.energy_j == pytest.approx(11 / 11, rel=1e-3)


def test_case_19_a_meter_that_fails_meanwhile(timed_job: Job, board: Board, short_waits: None) -> None:
    root = board("xeon")
    broken = f"begin(); work(meanwhile=lambda: put({str(root / PACKAGE.format(1))!r}, 'gone'))"
    result = measure(timed_job, command=script(broken), sensors=Sensors(root))
    assert result.energy_j is None
    assert "the meter failed meanwhile" in result.energy_source


def test_case_19_answers_too_short_for_the_meter(
    timed_job: Job, board: Board, short_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardware_profiles.agent.trace.LEAST_S", {"ina3221": 2.0})
    result = measure(timed_job, command=script("begin(); work(0.2)"), sensors=Sensors(board("orin_nano")))
    assert result.energy_j is None
    assert "it needs 2 s" in result.energy_source


def test_case_19_the_source_is_that_of_the_attempt_that_was_kept(
    timed_job: Job, board: Board, short_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is disturbed; the first is the fastest, and too short for the meter, which fails afterwards."""
    root = board("xeon")
    tries, counter = root / "tries", str(root / PACKAGE.format(1))
    code = (
        f"tries = Path({str(tries)!r}); number = len(tries.read_text()) if tries.exists() else 0\n"
        f"put(tries, 'x' * (number + 1))\n"
        f"timed, timing = timing, lambda e2e_ms, tokens: timed(e2e_ms + 100 * number, tokens)\n"
        f"begin(); work(meanwhile=lambda: number and put({counter!r}, 'gone'))"
    )
    monkeypatch.setattr("hardware_profiles.agent.trace.LEAST_S", {"rapl": 5.0})
    monkeypatch.setattr("hardware_profiles.agent.measure.judge", lambda watched: ("invalid", ("disturbed",)))
    result = measure(timed_job, command=script(code), sensors=Sensors(root))
    assert result.verdict == "labelled"
    assert result.timings[0].e2e_ms < 100
    assert "it needs 5 s" in result.energy_source
