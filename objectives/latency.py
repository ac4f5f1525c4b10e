"""Latency figures from the raw timings of a measurement: medians with distribution-free intervals."""

import math
import statistics
from collections.abc import Sequence
from math import comb

from hardware_profiles.messages import Measurement, Timing
from objectives.accuracy import Z95
from objectives.trial import Figure

LEAST_N = 11
"""Least number of timings for a p50: MLPerf's binomial bound at confidence 0.99 (loadgen early stopping)."""

BETWEEN_PROCESSES = 0.05
"""The spread of a p50 between processes that is assumed until a device's own is measured."""


def latency_figures(measurement: Measurement, between_processes: float = BETWEEN_PROCESSES) -> dict[str, Figure]:
    """``latency_p50_ms``, ``ttft_p50_ms`` and ``token_p50_ms`` (milliseconds) and ``load_s`` of one measurement.

    An invalid measurement has no figures: all null.
    """
    if measurement.verdict == "invalid":
        return {name: Figure(value=None) for name in ("latency_p50_ms", "ttft_p50_ms", "token_p50_ms", "load_s")}
    timings = measurement.timings
    tokens = [gap for timing in timings if (gap := inter_token_ms(timing)) is not None]
    return {
        "latency_p50_ms": median([timing.e2e_ms for timing in timings], between_processes),
        "ttft_p50_ms": median([timing.ttft_ms for timing in timings], between_processes),
        "token_p50_ms": median(tokens, between_processes),
        "load_s": Figure(value=measurement.load_s, n=1),
    }


def between_processes(references: Sequence[Measurement]) -> float:
    """How far apart two processes' p50 of one bundle lie on this device, as a share: half a 95 % interval.

    1.96 standard deviations of the logarithm of the p50 over repeated measurements of one bundle; with fewer than three
    of them, ``BETWEEN_PROCESSES``.
    """
    p50 = [statistics.median(timing.e2e_ms for timing in one.timings) for one in references if one.timings]
    if len(p50) < 3:
        return BETWEEN_PROCESSES
    return math.expm1(Z95 * statistics.stdev(math.log(value) for value in p50))


def inter_token_ms(timing: Timing) -> float | None:
    """Mean time between the tokens of one answer, (E2E - TTFT) / (n - 1) in milliseconds; null with fewer than two."""
    n = len(timing.token_ms)
    return (timing.e2e_ms - timing.ttft_ms) / (n - 1) if n > 1 else None


def median(values: Sequence[float], between_processes: float = 0.0) -> Figure:
    """The median with a 95 % interval; null with fewer than ``LEAST_N`` values.

    The interval runs between two order statistics (:func:`median_ranks`), whatever the distribution. One process says
    nothing of the next one, so both ends are then moved out by the factor ``1 + between_processes``.
    """
    n = len(values)
    if n < LEAST_N:
        return Figure(value=None, n=n)
    ordered = sorted(values)
    low, high = median_ranks(n)
    widen = 1 + between_processes
    return Figure(value=statistics.median(ordered), low=ordered[low] / widen, high=ordered[high] * widen, n=n)


def median_ranks(n: int) -> tuple[int, int]:
    """Indices (from 0) of the order statistics that enclose the median with a confidence of at least 0.95.

    The narrowest symmetric pair: P(X(l) < median < X(u)) is at least 1 - 2 P(Binomial(n, 1/2) <= l), with l from 0 and
    u = n - 1 - l (David and Nagaraja, Order Statistics, 3rd ed., section 7.1).

    Raises:
        ValueError: for n < 6, where even the whole range covers less than that.
    """
    below = 0
    for index in range(n // 2):
        below += comb(n, index)
        if below * 40 > 1 << n:  # P(Binomial <= index) > 0.025
            if index == 0:
                break
            return index - 1, n - index
    raise ValueError(f"{n} values cannot enclose a median with confidence 0.95")
