"""NVIDIA GPUs as NVML reports them, where a driver and the package nvidia-ml-py are there; loaded only then.

Bits and calls as in the NVML API reference, docs.nvidia.com/deploy/nvml-api (NvmlClocksEventReasons).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

DRIVER = "proc/driver/nvidia/version"
REASONS = {
    0x04: "SwPowerCap",
    0x08: "HwSlowdown",
    0x20: "SwThermalSlowdown",
    0x40: "HwThermalSlowdown",
    0x80: "HwPowerBrakeSlowdown",
}
"""Why clocks are below what was asked for. The others (idle, application clocks, sync boost) are no throttling."""


class Gpus:
    """All GPUs of the machine. Readings that a GPU does not support are left out."""

    def __init__(self, library: Any) -> None:
        """``library``: the module ``pynvml``, initialised."""
        self._nvml = library
        self._devices = [library.nvmlDeviceGetHandleByIndex(row) for row in range(library.nvmlDeviceGetCount())]

    def energy_counters(self) -> list[tuple[str, Callable[[], int]]]:
        """Name, and reader of millijoules, of each GPU that counts its energy."""
        found = []
        for row, device in enumerate(self._devices):
            if self._ask("nvmlDeviceGetTotalEnergyConsumption", device) is not None:
                found.append((f"GPU {row}", self._counter(device)))
        return found

    def temperature_c(self) -> float | None:
        """Of the hottest."""
        return max(self._known("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU), default=None)

    def flags(self) -> tuple[str, ...]:
        """What throttles any of them now."""
        bits = 0
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            for found in self._known(name):
                bits |= int(found)
        return tuple(name for bit, name in REASONS.items() if bits & bit)

    def pids(self) -> frozenset[int]:
        """Processes with a compute context."""
        return frozenset(one.pid for found in self._known("nvmlDeviceGetComputeRunningProcesses") for one in found)

    def _counter(self, device: Any) -> Callable[[], int]:
        def read() -> int:
            value = self._ask("nvmlDeviceGetTotalEnergyConsumption", device)
            if value is None:
                raise ValueError("NVML stopped giving the energy")
            return int(value)

        return read

    def _known(self, call: str, *arguments: Any) -> list[Any]:
        answers = [self._ask(call, device, *arguments) for device in self._devices]
        return [answer for answer in answers if answer is not None]

    def _ask(self, call: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, call)(*arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


def find(root: Path) -> tuple[Gpus | None, str]:
    """The GPUs, or null and why they cannot be read."""
    if not (root / DRIVER).is_file():
        return None, "no NVIDIA driver is loaded"
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return None, "there is an NVIDIA driver, but the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        return Gpus(pynvml), ""
    except pynvml.NVMLError as error:
        return None, f"NVML does not start ({error})"
