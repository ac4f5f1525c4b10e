"""Memory and size figures, in megabytes of 10^6 bytes."""

from hardware_profiles.messages import Measurement
from objectives.trial import Figure

BYTES_PER_MB = 1_000_000


def memory_figure(measurement: Measurement) -> Figure:
    """``memory_peak_mb``: peak memory of the runner and on an accelerator; null where the measurement is invalid."""
    if measurement.verdict == "invalid":
        return Figure(value=None)
    return Figure(value=measurement.memory_peak_bytes / BYTES_PER_MB, n=1)


def memory_above_figure(measurement: Measurement) -> Figure:
    """``memory_above_mb``: the peak above the bare runtime's, of the process where that is most; null where invalid."""
    if measurement.verdict == "invalid":
        return Figure(value=None)
    above = max(process.peak_bytes - process.memory_baseline_bytes for process in measurement.processes)
    return Figure(value=above / BYTES_PER_MB, n=1)


def size_figure(size_bytes: int) -> Figure:
    """``size_mb``: the size of all files of a bundle. Counted, so the interval is the value itself."""
    size = size_bytes / BYTES_PER_MB
    return Figure(value=size, low=size, high=size, n=1)
