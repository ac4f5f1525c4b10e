"""Boards as file trees. None of these devices is here: see each listing for where it comes from."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hardware_profiles.agent.energy import Counter, Power, pmic_watts
from hardware_profiles.agent.sensors import Sensors
from tests.boards import LISTINGS, Board

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_a_jetson(board: Board) -> None:
    sensors = Sensors(board("orin_nano"))
    reading = sensors.read(1.5)
    assert (reading.t_s, reading.temperature_c, reading.clock_mhz, reading.flags) == (1.5, 63.781, 1510.4, ())
    assert sensors.counters() == {"oc1_event_cnt": 0, "oc2_event_cnt": 15, "oc3_event_cnt": 37}
    (meter,), reason = sensors.meters()
    assert (meter.source, reason) == ("ina3221", "")
    assert meter.joules(10.0) == 0
    assert meter.joules(12.0) == pytest.approx(2 * 4.984 * 1.856)
    said = sensors.describe()
    assert said["energy"].startswith("ina3221: VDD_IN (")
    assert "oc2_event_cnt" in said["throttle"]


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("0", ()),
        (
            "50005",
            ("Under-voltage detected", "Currently throttled", "Under-voltage has occurred", "Throttling has occurred"),
        ),
        ("0x80008", ("Soft temperature limit active", "Soft temperature limit has occurred")),
        ("nonsense", ()),
    ],
)
def test_a_raspberry_pis_throttling(board: Board, text: str, flags: tuple[str, ...]) -> None:
    root = board("pi4")
    sensors = Sensors(root)
    (root / THROTTLED).write_text(text + "\n")
    assert sensors.read(0.0).flags == flags
    assert sensors.describe()["throttle"] == str(root / THROTTLED)


def test_a_raspberry_pi_5_by_its_own_tool(tmp_path: Path) -> None:
    tool = tmp_path / "usr/bin/vcgencmd"
    tool.parent.mkdir(parents=True)
    listing = LISTINGS / "pi5_pmic.txt"
    tool.write_text(f"#!/bin/sh\ncase $1 in pmic_read_adc) cat {listing};; get_throttled) echo throttled=0x4;; esac\n")
    tool.chmod(0o755)
    sensors = Sensors(tmp_path)
    assert sensors.read(0.0).flags == ("Currently throttled",)
    (meter,), _ = sensors.meters()
    assert meter.source == "pmic"
    meter.joules(0.0)
    assert meter.joules(1.0) == pytest.approx(pmic_watts(listing.read_text()))


def test_the_watts_of_a_pmic_are_of_rails_with_both() -> None:
    """By hand from the listing: EXT5V and BATT have no current and do not count."""
    text = (LISTINGS / "pi5_pmic.txt").read_text()
    amperes = (
        0.1024727,
        0.1083282,
        0.1571247,
        0.00585558,
        0,
        0.2410547,
        0.3142495,
        1.4288,
        0,
        6.105e-05,
        0.0035409,
        0.0200244,
    )
    volts = (
        3.710912,
        3.309105,
        1.800731,
        1.104394,
        0.604395,
        1.108058,
        0.8040285,
        0.9065925,
        3.311352,
        3.318678,
        0.798827,
        5.0786,
    )
    assert pmic_watts(text) == pytest.approx(sum(a * v for a, v in zip(amperes, volts, strict=True)), rel=1e-6)
    assert pmic_watts("") is None
    assert pmic_watts("EXT5V_V volt(24)=5.0V") is None


def test_packages_of_rapl_are_summed_and_nothing_else(board: Board) -> None:
    sensors = Sensors(board("xeon"))
    meters, _ = sensors.meters()
    assert [Path(meter.where).parent.name for meter in meters] == ["intel-rapl:0", "intel-rapl:1"]
    assert sensors.read(0.0).temperature_c == 51.0
    assert sensors.describe()["throttle"].startswith("none: ")


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path)
    assert all(text.startswith("none: this machine has no ") for text in sensors.describe().values())
    reading = sensors.read(0.0)
    assert (reading.temperature_c, reading.clock_mhz, reading.power_w, reading.flags) == (None, None, None, ())


def test_a_counter_wraps_once_or_runs_backwards() -> None:
    values = iter((90, 95, 5, 20))
    counter = Counter("rapl", "x", lambda: next(values), 0.5, span=100)
    assert [counter.joules(0.0) for _ in range(4)] == [0, 2.5, 7.5, 15.0]
    values = iter((9, 8))
    backwards = Counter("nvml", "x", lambda: next(values), 1.0)
    backwards.joules(0.0)
    with pytest.raises(ValueError, match="ran backwards"):
        backwards.joules(1.0)


def test_power_is_integrated_by_trapezoids() -> None:
    watts = iter((0.0, 2.0, 2.0))
    meter = Power("pmic", "x", lambda: next(watts))
    assert [meter.joules(at) for at in (0.0, 1.0, 3.0)] == [0.0, 1.0, 5.0]


class FakeNvml(SimpleNamespace):
    """What of ``pynvml`` is asked: two GPUs, of which one does not count its energy."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, row: int) -> int:  # noqa: N802
        return row

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:  # noqa: N802
        if device:
            raise self.NVMLError
        return 5000

    def nvmlDeviceGetTemperature(self, device: int, kind: int) -> int:  # noqa: N802
        return 40 + device + kind

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: int) -> int:  # noqa: N802
        return 0x01 | (0x44 if device else 0)

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=77)] if device else []


def test_gpus_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version\n")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    sensors = Sensors(tmp_path)
    (meter,), _ = sensors.meters()
    assert (meter.source, meter.where) == ("nvml", "NVML total energy of GPU 0")
    reading = sensors.read(0.0)
    assert reading.temperature_c == 41
    assert reading.flags == ("SwPowerCap", "HwThermalSlowdown")
    assert sensors.gpus is not None
    assert sensors.gpus.pids() == {77}


def test_a_driver_without_its_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version\n")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in Sensors(tmp_path).describe()["energy"]
