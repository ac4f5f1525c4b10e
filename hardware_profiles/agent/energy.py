"""Energy meters: joules since a meter's first look, from a counter or by integrating power. Never an estimate.

Sources, each with where its format is documented:

- ``rapl``: Linux powercap, docs.kernel.org/power/powercap/powercap.html: ``energy_uj`` counts microjoules of a zone and
  wraps at ``max_energy_range_uj``. Only zones named ``package-N`` are summed: their subzones are part of them.
- ``nvml``: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta or newer), NVML API
  reference; through the package nvidia-ml-py.
- ``ina3221``: docs.kernel.org/hwmon/ina3221.html: ``inN_input`` in mV, ``currN_input`` in mA, ``inN_label``. On a
  Jetson ``VDD_IN`` is the whole module (Jetson Linux Developer Guide, r36.3, Platform Power and Performance).
- ``pmic``: Raspberry Pi 5, ``vcgencmd pmic_read_adc``: volts and amperes of the rails behind the power management chip,
  lines such as ``VDD_CORE_A current(7)=0.81262990A``. The 5 V input has no current: what hangs on it is not counted.

Jetson and Raspberry Pi: unverified on hardware; the tests read listings that others recorded.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hardware_profiles.agent.files import entries, first_line, run_tool

RAPL_ZONES = "sys/class/powercap"
VCGENCMD = "usr/bin/vcgencmd"
_PACKAGE = re.compile(r"intel-rapl:\d+")
_RAIL = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)


class Meter(Protocol):
    """A source of energy readings. ``where``: what is read, for people."""

    source: str
    where: str

    def joules(self, now_s: float) -> float:
        """Joules since the first call, which gives 0. ``now_s`` is CLOCK_MONOTONIC. Raises OSError or ValueError."""
        ...


@dataclass
class Counter:
    """A counter of energy. ``span``: after how many units it starts again from 0; null is never."""

    source: str
    where: str
    read: Callable[[], int]
    unit_j: float
    span: int | None = None
    _last: int | None = field(default=None, init=False)
    _total: int = field(default=0, init=False)

    def joules(self, now_s: float) -> float:  # noqa: ARG002
        """See ``Meter``. One wrap between two calls is corrected; at 2 Hz and 1 kW a RAPL counter takes minutes."""
        value = self.read()
        step = 0 if self._last is None else value - self._last
        if step < 0:
            if self.span is None:
                raise ValueError(f"{self.where} ran backwards")
            step += self.span
        self._last = value
        self._total += step
        return self._total * self.unit_j


@dataclass
class Power:
    """A sensor of power, integrated by trapezoids between the calls."""

    source: str
    where: str
    read: Callable[[], float]
    _last: tuple[float, float] | None = field(default=None, init=False)
    _total: float = field(default=0.0, init=False)

    def joules(self, now_s: float) -> float:
        """See ``Meter``."""
        watts = self.read()
        if self._last is not None:
            then_s, before = self._last
            self._total += (watts + before) / 2 * (now_s - then_s)
        self._last = now_s, watts
        return self._total


def meters(root: Path, gpus: Any = None) -> tuple[list[Meter], str]:
    """What measures energy here: the whole board where that is measured, else processor and GPUs; or why nothing does.

    ``gpus`` is an :class:`hardware_profiles.agent.nvml.Gpus`, or null.
    """
    board = _ina3221(root) or _pmic(root)
    if board:
        return [board], ""
    rapl, reason = _rapl(root)
    found = [*rapl, *_nvml(gpus)]
    return found, "" if found else reason


def _rapl(root: Path) -> tuple[list[Meter], str]:
    zones = [zone for zone in entries(root / RAPL_ZONES) if _PACKAGE.fullmatch(zone.name)]
    zones = [zone for zone in zones if first_line(zone / "name").startswith("package-")]
    if not zones:
        return [], "this machine has no RAPL counter, no VDD_IN, no PMIC and no NVML that can be read"
    found: list[Meter] = []
    for zone in zones:
        counter = zone / "energy_uj"
        try:
            int(counter.read_text())
            span = int((zone / "max_energy_range_uj").read_text())
        except PermissionError as error:
            return [], f"{error.filename} may not be read by uid {os.getuid()}"
        except (OSError, ValueError) as error:
            return [], f"{counter} cannot be read ({error})"
        found.append(Counter("rapl", str(counter), _reader(counter), 1e-6, span))
    return found, ""


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text())


def _nvml(gpus: Any) -> list[Meter]:
    if gpus is None:
        return []
    return [Counter("nvml", f"NVML total energy of {name}", read, 1e-3) for name, read in gpus.energy_counters()]


def _ina3221(root: Path) -> Meter | None:
    for chip in entries(root / "sys/class/hwmon"):
        if first_line(chip / "name") != "ina3221":
            continue
        for channel in "123":
            if first_line(chip / f"in{channel}_label") == "VDD_IN":
                volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
                return Power("ina3221", f"VDD_IN ({volts}, {amperes.name})", _product(volts, amperes))
    return None


def _product(milli_volts: Path, milli_amperes: Path) -> Callable[[], float]:
    return lambda: int(milli_volts.read_text()) * int(milli_amperes.read_text()) / 1e6


def _pmic(root: Path) -> Meter | None:
    tool = root / VCGENCMD
    if not pmic_watts(run_tool(tool, "pmic_read_adc")):
        return None
    return Power("pmic", f"{tool} pmic_read_adc, its rails without what hangs on 5 V", lambda: _pmic_now(tool))


def _pmic_now(tool: Path) -> float:
    watts = pmic_watts(run_tool(tool, "pmic_read_adc"))
    if watts is None:
        raise ValueError(f"{tool} pmic_read_adc gave no rail with volts and amperes")
    return watts


def pmic_watts(text: str) -> float | None:
    """Watts of all rails that have both a voltage and a current; null where there is none."""
    rails: dict[str, dict[str, float]] = {}
    for rail, kind, value in _RAIL.findall(text):
        rails.setdefault(rail, {})[kind] = float(value)
    whole: Sequence[Mapping[str, float]] = [one for one in rails.values() if len(one) == 2]
    return sum(one["A"] * one["V"] for one in whole) if whole else None
