"""Case 16: throttled mid-run: invalid, cool-down, bounded."""

from pathlib import Path

import pytest

from hardware_profiles.agent import measure as measuring
from hardware_profiles.agent.measure import ATTEMPTS, measure
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.messages import Job
from tests.boards import Board, lets_go, script

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_case_16_throttling_that_stays_is_repeated_a_bounded_number_of_times_and_kept_labelled(
    timed_job: Job, board: Board, tmp_path: Path, short_waits: None
) -> None:
    root, runs = board("pi4"), tmp_path / "runs"
    hot = f"put({str(root / THROTTLED)!r}, '40004'); open({str(runs)!r}, 'a').write('x'); begin(); work()"
    result = measure(timed_job, command=script(hot), sensors=Sensors(root))
    assert result.verdict == "labelled"
    assert result.reasons[0].startswith("disturbed in each of 3 attempts: Currently throttled in")
    assert len(result.retries) == ATTEMPTS - 1
    assert runs.read_text() == "x" * ATTEMPTS
    assert len(result.processes) == 1
    assert result.processes[0].disturbed_p50_ms == (10.05, 10.05)
    assert len(result.timings) == 11
    assert any("Currently throttled" in reading.flags for reading in result.trace)


def test_case_16_a_device_that_cools_down_is_measured_again(
    timed_job: Job, board: Board, tmp_path: Path, short_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag goes down while it waits; the sticky one stays, and was there before the second attempt."""
    root, runs, go = board("pi4"), tmp_path / "runs", tmp_path / "go"
    monkeypatch.setattr(measuring, "COOL_S", 30.0)
    first = (
        f"runs = Path({str(runs)!r}); again = runs.exists(); runs.write_text('x'); begin()\n"
        f"work(0.3, meanwhile=lambda: again or put({str(root / THROTTLED)!r}, '80008'))"
    )

    def cools(seconds: float) -> None:
        if (root / THROTTLED).read_text() == "80008":
            (root / THROTTLED).write_text("80000")

    monkeypatch.setattr(measuring._Watch, "_wait", lambda self, seconds: cools(seconds))
    result = measure(timed_job, command=script(first, go), sensors=Sensors(root), heard=lets_go(go))
    assert result.verdict == "valid"
    assert result.reasons == ()
    assert len(result.retries) == 1
    assert "Soft temperature limit active" in result.retries[0]
    assert "Soft temperature limit has occurred meanwhile" in result.retries[0]


def test_case_16_over_current_on_a_jetson(timed_job: Job, board: Board, tmp_path: Path, short_waits: None) -> None:
    root, go = board("orin_nano"), tmp_path / "go"
    counter = str(root / "sys/class/hwmon/hwmon3/{}_event_cnt")
    spikes = f"begin(); work(meanwhile=lambda: put({counter.format('oc3')!r}, 40))"
    result = measure(timed_job, command=script(spikes, go), sensors=Sensors(root), heard=lets_go(go))
    assert result.verdict == "labelled"
    assert result.reasons == ("oc3_event_cnt went up by 3",)
    power = f"begin(); p = Path({counter.format('oc2')!r}); work(meanwhile=lambda: put(p, int(p.read_text()) + 1))"
    result = measure(timed_job, command=script(power, go), sensors=Sensors(root), heard=lets_go(go))
    assert result.verdict == "labelled"
    assert result.reasons == ("disturbed in each of 3 attempts: oc2_event_cnt went up by 1",)
    assert result.retries == ("oc2_event_cnt went up by 1",) * 2
