"""Latency figures from the raw timings of a measurement: percentiles with distribution-free intervals."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

import numpy as np

from hardware_profiles.messages import Measurement, Timing
from objectives.accuracy import Z95
from objectives.trial import Figure

CONFIDENCE = 0.99
RESAMPLES = 2000

BETWEEN_PROCESSES = 0.05
"""The spread of a p50 between processes that is assumed until a device's own is measured."""
LEAST_REFERENCES = 3
"""Repeated measurements of one bundle from which a spread is taken: two have one degree of freedom, a t of 12.7."""


def latency_figures(measurement: Measurement, between_processes: float = BETWEEN_PROCESSES) -> dict[str, Figure]:
    """Every figure of ``FIGURES`` (milliseconds) and ``load_s`` of one measurement."""
    return {name: latency_figure(name, measurement, between_processes) for name in (*FIGURES, "load_s")}


def latency_figure(name: str, measurement: Measurement, between_processes: float = BETWEEN_PROCESSES) -> Figure:
    """One of them; null where the measurement is invalid or has too few answers for the percentile."""
    if measurement.verdict == "invalid":
        return Figure(value=None)
    if name == "load_s":
        return Figure(value=measurement.load_s, n=1)
    part, share = FIGURES[name]
    values = [[value for timing in one.timings if (value := part(timing)) is not None] for one in measurement.processes]
    return _with_disturbed(percentile(values, share, between_processes), measurement)


def _with_disturbed(figure: Figure, measurement: Measurement) -> Figure:
    """The interval as wide as the attempts strayed of which the kept one was the least disturbed."""
    ratios = [
        p50 / statistics.median(timing.e2e_ms for timing in process.timings)
        for process in measurement.processes
        for p50 in process.disturbed_p50_ms
    ]
    if figure.low is None or figure.high is None or not ratios:
        return figure
    return replace(figure, low=figure.low * min(1.0, *ratios), high=figure.high * max(1.0, *ratios))


FIGURES: Mapping[str, tuple[Callable[[Timing], float | None], float]] = {
    "latency_p50_ms": (lambda timing: timing.e2e_ms, 0.50),
    "latency_p90_ms": (lambda timing: timing.e2e_ms, 0.90),
    "latency_p95_ms": (lambda timing: timing.e2e_ms, 0.95),
    "latency_p99_ms": (lambda timing: timing.e2e_ms, 0.99),
    "ttft_p50_ms": (lambda timing: timing.ttft_ms if timing.token_ms else None, 0.50),
    "token_p50_ms": (lambda timing: timing.inter_token_ms, 0.50),
}
"""Name -> what of an answer, null where it has none; and the share of answers that are at most as slow."""


def between_processes(references: Sequence[Measurement]) -> float:
    """How far another process's p50 of one bundle may lie from this one's on this device, as a share.

    Half a 95 % prediction interval of the logarithm of the p50 from repeated measurements of one bundle, but at least
    ``BETWEEN_PROCESSES``: a few minutes show little of other hours. Which of them count: :func:`counted`.
    """
    p50 = [statistics.median(timing.e2e_ms for timing in one.timings) for one in counted(references)]
    n = len(p50)
    if n < LEAST_REFERENCES:
        return BETWEEN_PROCESSES
    half = student_975(n - 1) * statistics.stdev(math.log(value) for value in p50) * math.sqrt(1 + 1 / n)
    return max(BETWEEN_PROCESSES, math.expm1(half))


def counted(references: Sequence[Measurement]) -> list[Measurement]:
    """Those that say how a device repeats: the undisturbed ones, or all valid ones while fewer than three are that.

    A disturbed one says nothing of a device that is not disturbed, and the interval of a disturbed measurement is
    widened by its own attempts. But where a device is hardly ever left alone, its figures stray as those do.
    """
    quiet = [one for one in references if undisturbed(one)]
    return quiet if len(quiet) >= LEAST_REFERENCES else [one for one in references if one.verdict != "invalid"]


def undisturbed(measurement: Measurement) -> bool:
    """Whether no process was kept for want of an attempt that was not disturbed."""
    return measurement.verdict != "invalid" and not any(one.disturbed_p50_ms for one in measurement.processes)


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


def percentile(processes: Sequence[Sequence[float]], share: float, between_processes: float = 0.0) -> Figure:
    """The value that a share of all answers does not exceed, with a 95 % interval; null below ``least_n`` answers.

    Of one process the interval runs between two order statistics (:func:`ranks`), whatever the distribution. Of several
    it is a cluster bootstrap (:func:`bootstrap`), since a process is the sampling unit. Either says nothing of other
    hours, so both ends are then moved out by the factor ``1 + between_processes``.
    """
    ordered = sorted(value for process in processes for value in process)
    n = len(ordered)
    if n < least_n(share):
        return Figure(value=None, n=n)
    if sum(map(bool, processes)) > 1:
        low, high = bootstrap(processes, share)
    else:
        below, above = ranks(n, share)
        low, high = ordered[below], ordered[above]
    widen = 1 + between_processes
    value = float(np.quantile(ordered, share))
    return Figure(value=value, low=min(low, value) / widen, high=max(high, value) * widen, n=n)


@lru_cache
def least_n(share: float) -> int:
    """Least number of answers for a percentile: MLPerf's bound (loadgen, early stopping) at confidence 0.99.

    The least n of which, with that confidence, two or more lie beyond the true percentile: then one may be discarded
    and the largest that remains still bounds it. P(Binomial(n, 1 - share) <= 1) <= 0.01.
    """
    n = 2
    while share**n + n * (1 - share) * share ** (n - 1) > 1 - CONFIDENCE:
        n += 1
    return n


LEAST_N = least_n(0.5)


@lru_cache
def ranks(n: int, share: float) -> tuple[int, int]:
    """Indices (from 0) of the order statistics that enclose a percentile with a confidence of at least 0.95.

    With B of Binomial(n, share): the largest l with P(B <= l) <= 0.025 and the least u with P(B <= u - 1) >= 0.975
    (David and Nagaraja, Order Statistics, 3rd ed., section 7.1).

    Raises:
        ValueError: if even the whole range covers less than that.
    """
    yes, no = math.log(share), math.log1p(-share)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    upto = list(accumulate(math.exp(way + k * yes + (n - k) * no) for k, way in enumerate(ways)))
    low = sum(chance <= 0.025 for chance in upto) - 1
    high = next(k for k, chance in enumerate(upto) if chance >= 0.975)
    if low < 0 or high >= n:
        raise ValueError(f"{n} values cannot enclose a percentile of {share:g} with confidence 0.95")
    return low, high


def bootstrap(processes: Sequence[Sequence[float]], share: float) -> tuple[float, float]:
    """The 95 % percentile interval of a percentile by resampling processes, then answers within each; same every time.

    Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8: both levels with replacement.
    """
    rng = np.random.default_rng(0)
    clusters = [np.asarray(process, dtype=np.float64) for process in processes if process]
    found = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(clusters), size=len(clusters))
        pooled = [clusters[row][rng.integers(len(clusters[row]), size=len(clusters[row]))] for row in chosen]
        found.append(np.quantile(np.concatenate(pooled), share))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
