"""Latency figures from the raw timings of a measurement: medians with distribution-free intervals."""

import math
import statistics
from collections.abc import Sequence
from math import comb

from hardware_profiles.messages import Measurement
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
    tokens = [gap for timing in timings if (gap := timing.inter_token_ms) is not None]
    return {
        "latency_p50_ms": median([timing.e2e_ms for timing in timings], between_processes),
        "ttft_p50_ms": median([timing.ttft_ms for timing in timings], between_processes),
        "token_p50_ms": median(tokens, between_processes),
        "load_s": Figure(value=measurement.load_s, n=1),
    }


def between_processes(references: Sequence[Measurement]) -> float:
    """How far another process's p50 of one bundle may lie from this one's on this device, as a share.

    Half a 95 % prediction interval of the logarithm of the p50 from repeated measurements of one bundle, but at least
    ``BETWEEN_PROCESSES``: a few minutes show little of other hours.
    """
    p50 = [statistics.median(timing.e2e_ms for timing in one.timings) for one in references if one.timings]
    n = len(p50)
    if n < 3:
        return BETWEEN_PROCESSES
    half = student_975(n - 1) * statistics.stdev(math.log(value) for value in p50) * math.sqrt(1 + 1 / n)
    return max(BETWEEN_PROCESSES, math.expm1(half))


def student_975(freedom: int) -> float:
    """The 0.975 quantile of Student's t, for two degrees of freedom or more.

    Three terms of Abramowitz and Stegun 26.7.5 for four or more, the closed form for two, the table's value for three.
    """
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (0.975 * 0.025 * 4))
    if freedom == 3:
        return 3.182446
    z = Z95
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


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
