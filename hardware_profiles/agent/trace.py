"""Looks at the sensors at a steady pace while a runner works, from a thread that the runner never sees."""

import bisect
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.messages import Reading

PERIOD_S = 0.25
"""4 Hz, of 0.1 ms each (measured on file trees); 2 Hz where a look starts a process, as ``vcgencmd`` has to be."""
LEAST_S = {"rapl": 0.1, "nvml": 1.0, "ina3221": 2.0, "pmic": 2.0}
"""Over which a meter must be read for its joules to mean anything, by source.

Of a counter, 10 updates or more, so that what is lost or gained at the two ends is 10 % at most: RAPL's is updated
every 1 ms or so (Intel SDM, volume 3B, chapter Power and Thermal Management, MSR_PKG_ENERGY_STATUS), NVML's every 20 to
100 ms (manual of PETSc, PetscLogGpuEnergyMeter; NVIDIA's reference gives no interval). Of a sensor of power, 8 readings
at ``PERIOD_S``: our choice, since an integral of fewer hangs on when they happened to be taken.
"""


class Trace:
    """A context: readings begin with it and end with it. ``look`` takes one at once, from any thread."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._meters, self._reason = sensors.meters()
        self._began = time.monotonic()
        self._readings: list[Reading] = []
        self._energy: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)

    def __enter__(self) -> "Trace":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def source(self) -> str:
        """Where energy comes from, or why there is none."""
        return "+".join(dict.fromkeys(meter.source for meter in self._meters)) or f"none: {self._reason}"

    @property
    def measures_energy(self) -> bool:
        """Whether there is a meter that has not failed."""
        return bool(self._meters)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Those so far."""
        with self._lock:
            return tuple(self._readings)

    def at(self, monotonic_s: float) -> float:
        """A time of CLOCK_MONOTONIC in seconds of the trace."""
        return monotonic_s - self._began

    def between(self, start_s: float, end_s: float) -> tuple[Reading, ...]:
        """Readings from the last one before ``start_s`` to the first after ``end_s``."""
        found = self.readings
        times = [reading.t_s for reading in found]
        first = max(0, bisect.bisect_right(times, start_s) - 1)
        return found[first : bisect.bisect_left(times, end_s) + 1]

    def look(self) -> None:
        """Read every sensor now."""
        with self._lock:
            now = time.monotonic()
            reading = self._sensors.read(now - self._began)
            power = self._meter(now)
            self._readings.append(Reading(**{**vars(reading), "power_w": power}))

    def joules(self, start_s: float, end_s: float) -> tuple[float | None, str]:
        """Energy between two times of the trace, or null and why. Between two readings the counter is taken as linear.

        Take a ``look`` at both ends, so that little is left to that.
        """
        with self._lock:
            energy = list(self._energy)
        if not self._meters or len(energy) < 2:
            return None, self.source
        least = max(LEAST_S[meter.source] for meter in self._meters)
        if end_s - start_s < least:
            return None, f"{self.source}: the answers took {end_s - start_s:.2f} s, and it needs {least:g} s"
        return interpolated(energy, end_s) - interpolated(energy, start_s), self.source

    def _meter(self, now: float) -> float | None:
        """Take the meters' joules; watts since the last reading."""
        if not self._meters:
            return None
        try:
            total = sum(meter.joules(now) for meter in self._meters)
        except (OSError, ValueError) as error:
            self._meters, self._reason = [], f"the meter failed meanwhile ({error})"
            return None
        self._energy.append((now - self._began, total))
        if len(self._energy) < 2 or self._energy[-1][0] <= self._energy[-2][0]:
            return None
        (then, before), (last, joules) = self._energy[-2:]
        return (joules - before) / (last - then)

    def _run(self) -> None:
        _move_aside()
        while True:
            self.look()
            if self._ended.wait(2 * PERIOD_S if self._sensors.asks_tools else PERIOD_S):
                return


def interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at a time, linear between the points, and that of the nearest end beyond them."""
    place = bisect.bisect_left(points, (at, float("-inf")))
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[place - 1], points[place]
    return low + (high - low) * (at - left) / (right - left)


def _move_aside() -> None:
    """Keep this thread on the last processor: the scheduler finds the runner another, where there is one."""
    cpus = os.sched_getaffinity(0)
    if len(cpus) > 1:
        os.sched_setaffinity(0, {max(cpus)})
