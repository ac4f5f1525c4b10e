"""What repeated measurements of pools say: a latency for each, what a measurement costs, and how well it repeats."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEAST_FLOOR = 0.01
"""A difference of less than 1 % counts for nothing in what is compared by ratio, as in `objectives.noise`."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What was measured of one pool: the median latency of each process in milliseconds, and seconds of each.

    ``seconds`` are of measurements that no disturbance made to start over, where there are such.
    """

    samples: tuple[float, ...]
    seconds: tuple[float, ...]
    fault: str = ""

    @property
    def latency_ms(self) -> float:
        """The median over processes."""
        return statistics.median(self.samples)


def pooled(records: Sequence[dict[str, Any]]) -> Pooled:
    """The measurements of one pool's members. Disturbed ones count only where there are no others.

    ``fault``: why none of them could run.
    """
    valid = [one for one in records if one["p50_ms"] is not None]
    kept = [one for one in valid if not one["disturbed"]] or valid
    faults = [one["reason"] for one in records if one.get("fault", "INVALID_NOISE") != "INVALID_NOISE"]
    return Pooled(
        samples=tuple(one["p50_ms"] for one in kept),
        seconds=tuple(one["seconds"] for one in [one for one in kept if not one["retried"]] or kept),
        fault=faults[0] if faults and not kept else "",
    )


def repeatability(each: Sequence[Sequence[float]]) -> float | None:
    """The share by which two latencies of one pool would differ at most in 95 % of cases, from the pools' samples.

    The repeatability limit of ISO 5725-6, 1.96 sqrt(2) s, of the logarithms. The variance s^2 of one process is pooled
    over all pools within each, by degrees of freedom; that of the median of n processes is pi / 2 s^2 / n (David and
    Nagaraja, Order Statistics, 3rd ed., section 10.3, for large n and normal samples; for small n it is less). n is the
    median number of samples. At least ``LEAST_FLOOR``; null where no pool was measured twice.
    """
    repeated = [[math.log(value) for value in samples] for samples in each if len(samples) > 1]
    if not repeated:
        return None
    freedom = sum(len(samples) - 1 for samples in repeated)
    variance = sum((len(samples) - 1) * statistics.variance(samples) for samples in repeated) / freedom
    n = statistics.median(len(samples) for samples in repeated)
    return max(LEAST_FLOOR, math.expm1(1.96 * math.sqrt(2) * math.sqrt(math.pi / 2 * variance / n)))
