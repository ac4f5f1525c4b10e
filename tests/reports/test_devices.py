"""The report of a run on two devices: a front for each, and what happened to them."""

import json
import math
import os
import statistics
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hardware_profiles.messages import Request
from objectives.records import DeviceEvent
from objectives.run import RunFolder
from objectives.trial import DeviceResult, Figure, Trial
from reports.front import front, front_of
from reports.html import report_html
from tests.double import measurement
from tests.reports.conftest import SETTINGS, synthetic_trials, write_synthetic_run
from tests.reports.test_html import Page

DEVICE = {
    "profile": "raspberry-pi-5-8gb",
    "threads": 4,
    "dtypes": ["f32"],
    "agent": "0.1.0",
    "runtimes": {"openvino": "2026.4.1"},
    "facts": {
        "model": "Raspberry Pi 5",
        "cpu": "Cortex-A76",
        "memory_bytes": 8 << 30,
        "accelerators": {},
        "sensors": {"temperature": "/sys/class/thermal", "energy": "none: no sensor"},
        "isolation": {"network": "none: not root"},
        "platform": {"governor": "performance"},
    },
}
NAMES = ("pi", "jetson")
ASKED = Request(id="0", image="0.png", question="what ?")


def on_both(trial: Trial) -> Trial:
    """The trial as two devices have it; the second is 6 times as fast, and faster still where there are fewer bits."""
    bits = {"fp16": 1.0, "int8": 0.3, "int4": 0.2}[str(trial.candidate["quantization.weights"])]
    figures: dict[str, Figure] = {}
    for name, figure in trial.figures.items():
        if name in ("accuracy", "size_mb") or figure.value is None:
            figures[name] = figure
            continue
        for device, factor in (("pi", 1.0), ("jetson", bits / 6)):
            ends = [end if end is None else end * factor for end in (figure.low, figure.high)]
            figures[f"{name}@{device}"] = Figure(value=figure.value * factor, low=ends[0], high=ends[1], n=figure.n)
    label = {"state": "measured", "mode": "provisional", "labels": ("provisional",)}
    devices = {name: DeviceResult(**label) for name in NAMES}  # type: ignore[arg-type]
    return replace(trial, figures=figures, devices=devices, labels=(), deployed=f"{trial.number:016x}" * 4)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    search = SETTINGS["search"] | {"objectives": ["accuracy", *(f"latency_p50_ms@{name}" for name in NAMES)]}
    settings = SETTINGS | {"search": search | {"limits": {}}, "devices": dict.fromkeys(NAMES, DEVICE)}
    trials = [on_both(trial) for trial in synthetic_trials()]
    lost = DeviceResult(state="missing", reason="DEVICE_LOST: no answer", labels=("not measured on pi: no answer",))
    left = {name: figure for name, figure in trials[5].figures.items() if not name.endswith("@pi")}
    trials[5] = replace(trials[5], figures=left, devices={**trials[5].devices, "pi": lost})
    cannot = DeviceResult(state="infeasible", reason="OOM: 900 MB of 512 MB")
    trials[6] = replace(trials[6], figures=left, devices={**trials[6].devices, "pi": cannot})
    made = write_synthetic_run(tmp_path / "runs" / "two", trials, settings)
    for place, event in enumerate(("lost", "back")):
        made.log_device(DeviceEvent(device="pi", time=1_790_000_000.0 + place, event=event, reason="no route"))  # type: ignore[arg-type]
    for ms in (10.0, 10.4, 10.2):
        made.log_reference(0, "pi", measurement(ms, [ASKED], ["red"]))
    return made


def test_each_device_has_a_panel_with_its_own_front(run: RunFolder) -> None:
    page = Page(report_html(run))
    panels = [a["data-device"] for tag, a in page.tags if tag == "div" and "data-device" in a]
    assert panels == ["pi", "jetson", "pi", "jetson"]
    assert [a["data-tab"] for tag, a in page.tags if "data-tab" in a] == ["pi", "jetson"]
    for place, name in enumerate(NAMES):
        plain = []
        for trial in run.read_trials():
            own = {key.split("@")[0]: figure for key, figure in trial.figures.items() if key.endswith(f"@{name}")}
            common = {key: figure for key, figure in trial.figures.items() if "@" not in key}
            plain.append(replace(trial, figures=common | own))
        floors = {"latency_p50_ms": front_of(run, run.read_trials(), name).floors["latency_p50_ms"]}
        expected = front(plain, ("accuracy", "latency_p50_ms"), floors)
        chart = json.loads(page.scripts["front-data" if place == 0 else f"front-data-{place}"])
        drawn = sorted(value for trace in chart["data"] if trace["mode"] == "lines" for value in trace["x"])
        members = sorted(trial.figures["latency_p50_ms"].value or math.nan for trial in expected.trials)
        assert drawn == pytest.approx(members)
    fronts = [front_of(run, run.read_trials(), name).trials for name in NAMES]
    assert [trial.number for trial in fronts[0]] != [trial.number for trial in fronts[1]]


def test_repeated_measurements_are_told_by_their_kind(run: RunFolder) -> None:
    busy = "foreign work took {} of a processor: process 7 (sh -c " + "x " * 300 + ")"
    for trial, retries in ((0, (busy.format("0.81"), "HwSlowdown in 1 of 9 readings")), (1, (busy.format("1.20"),))):
        found = replace(measurement(9.0, [ASKED], ["red"]), retries=retries)
        run.write_measurement(f"{trial:016x}" * 4, "pi", found)
    text = " ".join(Page(report_html(run)).text)
    assert "repeated 2 times, at last because foreign work took 1.20 of a processor: process 7 (sh -c x" in text
    assert "repeated because HwSlowdown in 1 of 9 readings" in text
    assert "took 0.81" not in text
    assert "x " * 100 not in text


def test_a_device_that_was_there_again_on_resume_is_told_with_date_and_zone(run: RunFolder) -> None:
    begun = 1_790_000_000.0 + 86_400
    for place, event in enumerate(("opened", "lost", "opened", "opened")):
        made = DeviceEvent(device="jetson", time=begun + 60 * place, event=event, reason="")  # type: ignore[arg-type]
        run.log_device(made)
    zone = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "XYZ-5:30"  # POSIX: 5.5 hours before UTC, so local time is later
        time.tzset()
        text = " ".join(Page(report_html(run)).text)
    finally:
        os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
        time.tzset()
    local = datetime(1970, 1, 1) + timedelta(seconds=begun, hours=5.5)
    for minute, what in ((1, "was lost"), (2, "was there again when the search went on")):
        at = (local + timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M:%S")
        assert f"{at}+05:30 {what}" in text
    assert text.count("was there again") == 1
    assert "alone on it but for what the notes name" in text


def test_a_reference_that_strayed_is_held_against_the_spread(run: RunFolder) -> None:
    slow = measurement(20.0, [ASKED], ["red"])
    process = replace(slow.processes[0], disturbed_p50_ms=(20.0,))
    run.log_reference(0, "pi", replace(slow, processes=(process,)))
    text = " ".join(Page(report_html(run)).text)
    assert "measured 4 times" in text
    half = 4.302653 * statistics.stdev(map(math.log, (10.0, 10.4, 10.2))) * math.sqrt(4 / 3)  # t of 2 degrees
    assert f"within {100 * math.expm1(half):.1f} % (by 3 of them: the others were disturbed)" in text


def test_the_section_on_devices_says_what_they_are_and_what_happened(run: RunFolder) -> None:
    text = " ".join(Page(report_html(run)).text)
    for words in (
        "raspberry-pi-5-8gb, Raspberry Pi 5, Cortex-A76, 8.6 GB, 4 threads",
        "openvino 2026.4.1",
        "energy none: no sensor",
        "network none: not root",
        "was lost: no route",
        "came back",
        "still to be measured: trials 5",
        "1 still to be measured",
        "1 cannot run there",
        "on pi: OOM: 900 MB of 512 MB",
        "trial 0, measured 3 times",
    ):
        assert words in text, words
