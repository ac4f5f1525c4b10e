"""What a device says of its own state, read from its file tree: temperature, clock, throttling, energy.

Everything is read below an injected root, so that a fixture can be a folder. Formats:

- temperature: ``thermal_zone*/temp`` and ``hwmon*/temp*_input``, thousandths of a degree Celsius
  (docs.kernel.org/driver-api/thermal/sysfs-api.html, docs.kernel.org/hwmon/sysfs-interface.html).
- clock: ``scaling_cur_freq`` in kHz (docs.kernel.org/admin-guide/pm/cpufreq.html).
- Raspberry Pi: bits of ``get_throttled`` (raspberrypi.com/documentation/computers/os.html#get_throttled): hexadecimal
  in sysfs (patch "firmware/raspberrypi: Add a get_throttled sysfs file"), ``throttled=0x50005`` from ``vcgencmd``.
- Jetson: ``oc1_event_cnt`` (under-voltage), ``oc2_event_cnt`` (average over-current), ``oc3_event_cnt`` (instantaneous
  over-current) of the hwmon ``soctherm_oc`` (Jetson Linux Developer Guide, r36.3, Platform Power and Performance).
- NVIDIA GPUs: :mod:`hardware_profiles.agent.nvml`. Energy: :mod:`hardware_profiles.agent.energy`.

Jetson and Raspberry Pi: unverified on hardware; the tests read listings that others recorded.
"""

from collections.abc import Callable
from pathlib import Path

from hardware_profiles.agent import energy, nvml
from hardware_profiles.agent.files import entries, first_line, number, run_tool
from hardware_profiles.messages import Reading

PI_NOW = {
    0: "Under-voltage detected",
    1: "Arm frequency capped",
    2: "Currently throttled",
    3: "Soft temperature limit active",
}
PI_SINCE_BOOT = {
    16: "Under-voltage has occurred",
    17: "Arm frequency capping has occurred",
    18: "Throttling has occurred",
    19: "Soft temperature limit has occurred",
}
JETSON_COUNTERS = ("oc1_event_cnt", "oc2_event_cnt", "oc3_event_cnt")
_CPU_CHIPS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}
_PLAUSIBLE_MC = range(1, 150_000)  # a zone that is off reads 0 or nonsense
_PI_FIRMWARE = "sys/devices/platform"


class Sensors:
    """The sensors found below a root when it is made. Any thread may read them, one at a time.

    ``asks_tools``: a reading may start a process.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.gpus, self._no_gpus = nvml.find(root)
        self._temperatures = self._find_temperatures()
        self._clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._throttled, self._throttled_where = self._find_throttled()
        self._overcurrent = self._find_overcurrent()
        self.asks_tools = (root / energy.VCGENCMD).is_file()

    def meters(self) -> tuple[list[energy.Meter], str]:
        """Fresh energy meters, or none and why."""
        found, reason = energy.meters(self.root, self.gpus)
        if not found and self._no_gpus and "nvidia-ml-py" in self._no_gpus:
            reason = f"{reason}; {self._no_gpus}"
        return found, reason

    def describe(self) -> dict[str, str]:
        """The ``sensors`` of :class:`hardware_profiles.wire.Facts`: where each is read; or ``none: `` and why not."""
        meters, reason = self.meters()
        throttle = [self._throttled_where, *(str(path) for path in self._overcurrent)]
        throttle += ["NVML clocks event reasons"] if self.gpus else []
        return {
            "temperature": _where([*map(str, self._temperatures), *(["NVML"] if self.gpus else [])], "thermal zone"),
            "clock": _where([str(path) for path in self._clocks], "cpufreq"),
            "throttle": _where([one for one in throttle if one], "get_throttled, oc*_event_cnt or NVML"),
            "energy": "; ".join(f"{one.source}: {one.where}" for one in meters) or f"none: {reason}",
        }

    def read(self, t_s: float) -> Reading:
        """One look at temperature, clock and throttling; power comes from the meters."""
        heat = [value / 1e3 for path in self._temperatures if (value := number(path)) in _PLAUSIBLE_MC and value]
        if self.gpus and (gpu := self.gpus.temperature_c()) is not None:
            heat.append(gpu)
        clocks = [value / 1e3 for path in self._clocks if (value := number(path)) is not None]
        return Reading(
            t_s=t_s,
            temperature_c=max(heat, default=None),
            clock_mhz=max(clocks, default=None),
            flags=self._flags(),
        )

    def counters(self) -> dict[str, int]:
        """Counters that only grow, by name."""
        found = {path.name: number(path) for path in self._overcurrent}
        return {name: value for name, value in found.items() if value is not None}

    def _flags(self) -> tuple[str, ...]:
        bits = self._throttled() or 0
        found = tuple(name for bit, name in (PI_NOW | PI_SINCE_BOOT).items() if bits >> bit & 1)
        return found + (self.gpus.flags() if self.gpus else ())

    def _find_temperatures(self) -> list[Path]:
        """Thermal zones; where there are none, the processor's own hwmon."""
        zones = [zone / "temp" for zone in entries(self.root / "sys/class/thermal") if zone.name.startswith("thermal_")]
        zones = [path for path in zones if number(path) in _PLAUSIBLE_MC]
        if zones:
            return zones
        chips = [chip for chip in entries(self.root / "sys/class/hwmon") if first_line(chip / "name") in _CPU_CHIPS]
        return [path for chip in chips for path in sorted(chip.glob("temp*_input")) if number(path) in _PLAUSIBLE_MC]

    def _find_throttled(self) -> tuple[Callable[[], int | None], str]:
        path = next((self.root / _PI_FIRMWARE).glob("soc*/*firmware/get_throttled"), None)
        if path:
            return lambda: _bits(first_line(path)), str(path)
        tool = self.root / energy.VCGENCMD
        if _bits(run_tool(tool, "get_throttled")) is None:
            return lambda: None, ""
        return lambda: _bits(run_tool(tool, "get_throttled")), f"{tool} get_throttled"

    def _find_overcurrent(self) -> list[Path]:
        chips = [chip for chip in entries(self.root / "sys/class/hwmon") if first_line(chip / "name") == "soctherm_oc"]
        return [chip / name for chip in chips for name in JETSON_COUNTERS if number(chip / name) is not None]


def _bits(text: str) -> int | None:
    """``throttled=0x50005`` or ``50005``."""
    try:
        return int(text.strip().rpartition("=")[2], 16)
    except ValueError:
        return None


def _where(paths: list[str], what: str) -> str:
    return ", ".join(paths) if paths else f"none: this machine has no {what} that can be read"
