from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.agent.machine import Snapshot, Task
from hardware_profiles.agent.sensors import PI_NOW, PI_SINCE_BOOT
from hardware_profiles.agent.verdicts import Watched, judge, outliers, trend
from hardware_profiles.messages import Reading, Timing

Whose = Literal["runner", "agent", "other"]
QUIET: dict[str, Any] = {"processors": 4}


def timing(e2e_ms: float) -> Timing:
    return Timing(
        id="x",
        text="",
        preprocess_ms=None,
        vision_ms=None,
        prefill_ms=None,
        ttft_ms=1.0,
        e2e_ms=e2e_ms,
        token_ms=(1.0,),
    )


def watched(before: dict[str, Any], after: dict[str, Any], *flags: Sequence[str], **more: Any) -> Watched:
    return Watched(
        before=Snapshot(at_s=10.0, **(QUIET | before)),
        after=Snapshot(at_s=20.0, **(QUIET | after)),
        readings=[Reading(t_s=float(row), flags=tuple(up)) for row, up in enumerate(flags)],
        **more,
    )


def task(cpu_s: float, command: str = "make", *, whose: Whose = "other", started: int = 5) -> Task:
    return Task(started=started, cpu_s=cpu_s, command=command, whose=whose)


CASES = [
    ("nothing", watched({}, {}, (), ()), "valid", ""),
    ("NVML", watched({}, {}, ("HwSlowdown",)), "invalid", "HwSlowdown in 1 of 1 readings"),
    ("NVML", watched({}, {}, ("HwThermalSlowdown",), ()), "invalid", "HwThermalSlowdown in 1 of 2"),
    ("NVML", watched({}, {}, ("SwThermalSlowdown",)), "invalid", "SwThermalSlowdown"),
    ("NVML", watched({}, {}, (), ("HwPowerBrakeSlowdown",)), "invalid", "HwPowerBrakeSlowdown"),
    ("NVML", watched({}, {}, ("SwPowerCap",)), "labelled", "SwPowerCap in 1 of 1"),
    *(
        ("Jetson", watched({"counters": {name: 4}}, {"counters": {name: 6}}), verdict, f"{name} went up by 2")
        for name, verdict in (("oc1_event_cnt", "invalid"), ("oc2_event_cnt", "invalid"), ("oc3_event_cnt", "labelled"))
    ),
    ("Jetson", watched({"counters": {"oc1_event_cnt": 4}}, {"counters": {"oc1_event_cnt": 4}}), "valid", ""),
    *(("Pi", watched({}, {}, (name,)), "invalid", name) for name in PI_NOW.values()),
    *(("Pi", watched({}, {}, (), (name,)), "labelled", f"{name} meanwhile") for name in PI_SINCE_BOOT.values()),
    *(("Pi, long ago", watched({}, {}, (name,), (name,)), "valid", "") for name in PI_SINCE_BOOT.values()),
    ("suspend", watched({}, {"asleep_s": 7.0, "wall_s": 7.0}), "invalid", "suspended for 7.0 s"),
    ("clock", watched({}, {"wall_s": -2.0}), "invalid", "the wall clock jumped by -2.0 s"),
    ("a little slew", watched({}, {"wall_s": 0.02}), "valid", ""),
    ("swap", watched({"swapped_in": 3}, {"swapped_in": 9}), "invalid", "6 pages were swapped in"),
    ("CV", watched({}, {}, timings=[timing(10.0), timing(14.0)] * 6), "labelled", "e2e times scatter by"),
    ("growth", watched({}, {}, trend=1.25), "labelled", "grew 1.25 times"),
    ("steady", watched({}, {}, trend=1.02), "valid", ""),
    (
        "another has the processor for half of 11 short answers",
        watched({}, {"busy_s": 0.4, "tasks": {8: task(0.1)}}, work_s=0.2, ran_s=0.1, waited_s=0.1),
        "invalid",
        "the runner waited for a processor for 50% of its time",
    ),
    (
        "one of four threads shares its processor",
        watched({}, {}, work_s=1.0, ran_s=3.5, waited_s=0.5),
        "invalid",
        "for 14% of its time",
    ),
    ("threads wake up", watched({}, {}, work_s=0.01, ran_s=0.008, waited_s=0.0009), "valid", ""),
    ("a little waiting", watched({}, {}, work_s=1.0, ran_s=0.9, waited_s=0.04), "valid", ""),
    ("a runner works", watched({}, {"tasks": {7: task(40.0, whose="runner")}, "busy_s": 40.0}), "valid", ""),
    ("an agent waits", watched({}, {"tasks": {7: task(1.0, whose="agent")}, "busy_s": 1.0}), "valid", ""),
    (
        "an agent works",
        watched({}, {"tasks": {7: task(3.0, whose="agent")}, "busy_s": 3.0}),
        "labelled",
        "the agent itself took 0.30 of a processor",
    ),
    (
        "accelerator",
        watched({"accelerator": frozenset({7})}, {"tasks": {7: task(0.0, "train.py")}}),
        "invalid",
        "process 7 (train.py) has the accelerator open",
    ),
    (
        "our own on the accelerator",
        watched({}, {"accelerator": frozenset({7}), "tasks": {7: task(0.0, whose="runner")}}),
        "valid",
        "",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("device", "seen", "verdict", "said"), CASES)
def test_the_table(device: str, seen: Watched, verdict: str, said: str) -> None:
    found, reasons = judge(seen)
    assert found == verdict, (device, reasons)
    assert said in "; ".join(reasons)
    assert bool(reasons) == (verdict != "valid")


def test_what_spoils_a_measurement_comes_before_what_labels_it() -> None:
    verdict, reasons = judge(watched({}, {"swapped_in": 1}, ("SwPowerCap",), trend=2.0))
    assert verdict == "invalid"
    assert [reason.split()[0] for reason in reasons] == ["1", "SwPowerCap", "under"]


@pytest.mark.parametrize(
    ("processors", "cpu_s", "spoils"),
    [(2, 1.0, False), (2, 1.1, True), (4, 1.9, False), (4, 2.1, True), (64, 5.1, True)],
)
def test_how_much_foreign_work_is_too_much(processors: int, cpu_s: float, spoils: bool) -> None:
    """Over ten seconds: 5 % of all processors, but never more than half of one; 0.03 s are the clock's own doubt."""
    after = {"processors": processors, "busy_s": cpu_s, "tasks": {8: task(cpu_s, "make all")}}
    verdict, reasons = judge(watched({"processors": processors}, after))
    assert (verdict == "invalid") == spoils
    if spoils:
        assert reasons == (f"foreign work took {cpu_s / 10:.2f} of a processor: process 8 (make all) {cpu_s / 10:.2f}",)


def test_only_what_was_spent_meanwhile_counts() -> None:
    before = {"busy_s": 100.0, "tasks": {8: task(90.0), 9: task(9.0, started=4)}}
    after = {"busy_s": 109.2, "kernel_s": 0.2, "tasks": {8: task(90.0), 9: task(0.1), 3: task(8.9, whose="runner")}}
    assert judge(watched(before, after))[0] == "valid"


def test_work_of_processes_that_are_gone_is_seen() -> None:
    after = {"busy_s": 9.0, "tasks": {3: task(4.0, whose="runner")}}
    verdict, reasons = judge(watched({}, after))
    assert verdict == "invalid"
    assert "processes that ended or are not visible here 0.50" in reasons[0]


@given(st.lists(st.floats(0.1, 1e4), min_size=4, max_size=60))
def test_outliers_are_beyond_tukeys_fences(values: list[float]) -> None:
    low, high = np.quantile(values, (0.25, 0.75))
    reach = 1.5 * (high - low)
    margin = 1e-9 * max(values)
    found = set(outliers(values))
    for place, value in enumerate(values):
        if value < low - reach - margin or value > high + reach + margin:
            assert place in found
        if low - reach + margin < value < high + reach - margin:
            assert place not in found


def test_the_trend_is_last_over_first() -> None:
    assert trend([timing(1.0)] * 21) is None
    assert trend([timing(10.0)] * 30 + [timing(12.0)] * 30) == pytest.approx(1.2)
    minutes = [timing(1000.0)] * 60 + [timing(900.0)] * 600 + [timing(1500.0)] * 40
    assert trend(minutes) == pytest.approx(1.5)
