import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.agent import trace as tracing
from hardware_profiles.agent.energy import Power
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.agent.trace import Trace, interpolated
from hardware_profiles.messages import Job
from tests.boards import Board, script


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-2, 25))
def test_interpolation_is_numpys(values: list[float], at: float) -> None:
    times = [float(place) for place in range(len(values))]
    points = list(zip(times, values, strict=True))
    assert interpolated(points, at) == pytest.approx(np.interp(at, times, values), abs=1e-6)


def test_energy_between_two_times_is_that_of_the_counter(board: Board) -> None:
    """The counter follows the clock at 3 W, so that any span's energy is known."""
    watts = 3.0
    trace = Trace(Sensors(board("xeon")))
    trace._meters = [Power("rapl", "made up", lambda: watts)]
    for _ in range(3):
        trace.look()
        time.sleep(0.06)
    trace.look()
    first, last = trace.readings[0].t_s, trace.readings[-1].t_s
    joules, source = trace.joules(first + 0.01, last - 0.01)
    assert joules == pytest.approx(watts * (last - first - 0.02), rel=1e-6)
    assert source == "rapl"
    assert trace.readings[-1].power_w == pytest.approx(watts)
    assert trace.readings[0].power_w is None


def test_the_trace_keeps_its_pace_and_ends(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PERIOD_S", 0.02)
    enough = threading.Event()
    sensors = Sensors(board("pi4"))
    read = sensors.read

    def counted(t_s: float) -> object:
        if t_s > 0.2:
            enough.set()
        return read(t_s)

    monkeypatch.setattr(sensors, "read", counted)
    with Trace(sensors) as trace:
        assert enough.wait(30)
    number = len(trace.readings)
    times = [reading.t_s for reading in trace.readings]
    assert times == sorted(times)
    assert trace.readings[0].temperature_c == 48.312
    assert not any(thread.name == "trace" for thread in threading.enumerate())
    assert len(trace.readings) == number
    start, end = times[2] + 0.001, times[4] + 0.001
    assert [reading.t_s for reading in trace.between(start, end)] == times[2:6]


def test_a_measurement_says_what_the_device_was_like(
    timed_job: Job, board: Board, short_waits: None, tmp_path: Path
) -> None:
    from dataclasses import replace

    root = board("orin_nano")
    job = replace(timed_job, sustained_s=0.5)
    code = (
        "begin(); say('phase', phase='work'); began = time.monotonic(); time.sleep(0.5);"
        "say('worked', began_s=began, ended_s=time.monotonic())\n"
        "for row in range(40): timing(10.0 if row < 20 else 12.5)\n"
        "timing(90.0); say('done', memory_peak_bytes=300, accelerator_peak_bytes=2000, properties={})"
    )
    result = measure(job, command=script(code), sensors=Sensors(root), mode="finalist")
    assert result.regime == "sustained"
    assert (result.processes[0].memory_peak_bytes, result.memory_peak_bytes) == (300, 2300)
    assert result.platform["governor"] == "schedutil"
    assert len(result.processes) == 5
    process = result.processes[0]
    assert process.trend == pytest.approx(1.25)
    assert result.verdict == "labelled"
    assert any("grew 1.25 times" in reason for reason in result.reasons)
    assert process.outliers == (40,)
    during = [one for one in result.trace if process.began_s <= one.t_s <= process.ended_s]
    assert during
    assert {one.clock_mhz for one in result.trace} == {1510.4}
    assert process.idle_w == pytest.approx(4.984 * 1.856)
