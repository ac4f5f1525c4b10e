"""Latency and memory predicted from a profile and a count of work, with an interval. It refuses; it never measures.

An answer is three phases (vision, prefill, decode). None can be faster than its roof: the larger of the time to read
its bytes and the time of its operations (Williams, Waterman and Patterson 2009, "Roofline"). A device's own efficiency
in each phase and its overhead per layer and per call come from anchors, measurements of a few bundles on it:

    latency = a roof_vision + b roof_prefill + c roof_decode + d layers + e calls,    a..e >= 0
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hardware_profiles.profile import Processor, Profile
from spaces.errors import BadInput
from spaces.work import Phase, Work

LEAST_ANCHORS = 10
CONFIDENCE = 0.95
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}
SLOWER = 30.0
"""How many times its roofs an answer may take where no anchor says more.

Small models are mostly overhead: over 40 bundles of the inspection family on one core of an x86 server the measured
latency was 1.7 to 27 times the sum of the roofs, least for the largest model (benchmarks/prediction.py).
"""
LAYER_MS = 5.0
"""Overhead of one transformer layer in one call that is added to that.

An accelerator's roofs are nothing beside the time to launch its kernels, ten to twenty a layer from Python; each would
have to take a quarter of a millisecond, several times what it does even from a slow CPU. A guess, and a generous one.
"""
RUNTIME_BYTES, MOST_RUNTIME_BYTES = 150_000_000, 2_000_000_000
"""What a runtime holds beside weights and cache: of openvino 146 to 183 MB in that benchmark. And what it may hold."""
_SAME = 1.001  # two counts of work that differ by less are the same


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A predicted figure: ``low`` and ``high`` enclose it with ``CONFIDENCE`` where there were anchors."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one candidate is predicted to need. ``latency_ms`` is null where the profile knows too little.

    Attributes:
        anchored: whether it rests on anchors of this runtime and processor at all.
        calibrated: whether those anchors enclose it.
    """

    latency_ms: Interval | None
    memory_bytes: Interval
    anchored: bool
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A bundle that was measured on the device: its work, its latency p50 in milliseconds and its peak memory."""

    work: Work
    latency_ms: float
    memory_bytes: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One figure as a non-negative combination of terms.

    Attributes:
        coefficients: of the terms, in their order.
        half_log: half the width of the interval, in logarithms of the figure.
        least, most: of each term among the anchors.
    """

    coefficients: tuple[float, ...]
    half_log: float
    least: tuple[float, ...]
    most: tuple[float, ...]

    def at(self, terms: Sequence[float]) -> float:
        return math.fsum(a * x for a, x in zip(self.coefficients, terms, strict=True))

    def encloses(self, terms: Sequence[float]) -> bool:
        """Whether no term lies outside of what the anchors had."""
        return all(
            low <= term * _SAME and term <= high * _SAME
            for term, low, high in zip(terms, self.least, self.most, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the anchors of one device say of one runtime on one of its processors."""

    device: str
    runtime: str
    processor: str
    anchors: int
    latency: Fit
    memory: Fit


def calibrate(anchors: Sequence[Anchor], profile: Profile, runtime: str) -> Calibration:
    """Fit the terms to 10 to 20 anchors, by non-negative least squares of the relative error (Lawson and Hanson).

    The interval comes from leave-one-out residuals of the logarithm: Student's t times their root mean square, but
    never less than the largest of them.

    Raises:
        BadInput: there are fewer than ``LEAST_ANCHORS``, one has no latency, or they are of different processors.
    """
    if len(anchors) < LEAST_ANCHORS:
        raise BadInput(
            f"{len(anchors)} anchors are too few to calibrate {profile.name}; measure {LEAST_ANCHORS} or more."
        )
    if any(one.latency_ms <= 0 or one.memory_bytes <= 0 for one in anchors):
        raise BadInput(f"an anchor of {profile.name} has no latency or no memory; measure it again.")
    units = dict(profile.processor(runtime, one.work.device) for one in anchors)
    if len(units) > 1:
        raise BadInput(f"the anchors of {profile.name} ran on {' and '.join(units)}; calibrate each by itself.")
    ((name, unit),) = units.items()
    return Calibration(
        device=profile.name,
        runtime=runtime,
        processor=name,
        anchors=len(anchors),
        latency=_fitted([_terms(one.work, unit, profile) for one in anchors], [one.latency_ms for one in anchors]),
        memory=_fitted([_memory_terms(one.work) for one in anchors], [one.memory_bytes for one in anchors]),
    )


def predict(work: Work, profile: Profile, runtime: str, calibration: Calibration | None = None) -> Prediction:
    """Latency and memory of this work on the device.

    With anchors of its runtime and processor that enclose it, the calibrated interval. Beyond them its ends are kept
    only where they must hold: more work takes no less time and memory, so the low end is that of the anchors' range,
    and the high end is as wide as without anchors. Without anchors the low end is what arithmetic at the dense peak
    alone takes, which nothing can beat (weights may come from a cache, so their bandwidth bounds nothing), the high end
    ``SLOWER`` times the roofs and ``LAYER_MS`` a layer, and the value is in the middle of roofs and high end, by ratio.
    """
    name, unit = profile.processor(runtime, work.device)
    latency = _bounds(work, unit, profile)
    least = float(work.memory_bytes)
    memory = Interval(low=least, value=least + RUNTIME_BYTES, high=2 * least + MOST_RUNTIME_BYTES)
    if calibration is None or (calibration.runtime, calibration.processor) != (runtime, name):
        return Prediction(latency_ms=latency, memory_bytes=memory, anchored=False, calibrated=False)
    terms, memory_terms = _terms(work, unit, profile), _memory_terms(work)
    return Prediction(
        latency_ms=_interval(calibration.latency, terms, latency),
        memory_bytes=_interval(calibration.memory, memory_terms, memory),
        anchored=True,
        calibrated=calibration.latency.encloses(terms) and calibration.memory.encloses(memory_terms),
    )


def roof_ms(phase: Phase, work: Work, unit: Processor, profile: Profile) -> float:
    """The least milliseconds of a phase as data sheets have it; a figure that is not known bounds nothing."""
    reading = phase.bytes_read / unit.bandwidth if unit.bandwidth else 0.0
    return 1e3 * max(reading, _computing_s(phase.operations, work, unit, profile))


def bounded(unit: Processor) -> bool:
    """Whether a processor's figures bound a latency at all: one roof says nothing of what stays below the other."""
    return bool(unit.bandwidth) and any(unit.peak.values())


def peak_of(unit: Processor, dtype: str) -> float | None:
    """Operations a second in a dtype; of one without a figure that of another, times as many numbers as fit more.

    The largest of those is taken: it bounds a latency from below.
    """
    if own := unit.peak.get(dtype):
        return own
    return max((rate * _BYTES[other] / _BYTES[dtype] for other, rate in unit.peak.items() if rate), default=None)


def _computing_s(operations: float, work: Work, unit: Processor, profile: Profile) -> float:
    """A CPU's peak is that of all its threads."""
    peak = peak_of(unit, work.dtype)
    on_cpu = unit is profile.processors.get("cpu")
    share = min(1.0, work.threads / profile.threads) if on_cpu and profile.threads and work.threads else 1.0
    return operations / (peak * share) if peak else 0.0


def _phases(work: Work) -> tuple[Phase, Phase, Phase]:
    return work.vision, work.prefill, work.decode


def _terms(work: Work, unit: Processor, profile: Profile) -> tuple[float, ...]:
    roofs = (roof_ms(phase, work, unit, profile) for phase in _phases(work))
    return (*roofs, float(sum(phase.layers for phase in _phases(work))), float(work.calls))


def _memory_terms(work: Work) -> tuple[float, ...]:
    return float(work.memory_bytes), 1.0


def _bounds(work: Work, unit: Processor, profile: Profile) -> Interval | None:
    """What the profile alone says of the latency; null where it lacks bandwidth or peak."""
    if not bounded(unit):
        return None
    roof = math.fsum(roof_ms(phase, work, unit, profile) for phase in _phases(work))
    low = 1e3 * math.fsum(_computing_s(phase.operations, work, unit, profile) for phase in _phases(work))
    high = SLOWER * roof + LAYER_MS * sum(phase.layers for phase in _phases(work))
    return Interval(low=low, value=math.sqrt(roof * high), high=high)


def _interval(fit: Fit, terms: Sequence[float], bounds: Interval | None) -> Interval:
    value, wide = fit.at(terms), math.exp(fit.half_log)
    inner = fit.at([min(term, most) for term, most in zip(terms, fit.most, strict=True)])
    below = any(term * _SAME < least for term, least in zip(terms, fit.least, strict=True))
    above = any(term > most * _SAME for term, most in zip(terms, fit.most, strict=True))
    floor = bounds.low if bounds else 0.0
    high = value * wide
    if below:
        high = max(high, wide * fit.at([max(term, least) for term, least in zip(terms, fit.least, strict=True)]))
    if above:
        high = max(high, bounds.high if bounds else math.inf)
    low = floor if below else max(floor, inner / wide)
    return Interval(low=min(low, value), value=value, high=high)


def _fitted(rows: Sequence[Sequence[float]], figures: Sequence[float]) -> Fit:
    import numpy as np
    from scipy.optimize import nnls
    from scipy.stats import t

    terms_NK, figures_N = np.asarray(rows, float), np.asarray(figures, float)
    scale_K = np.where(terms_NK.max(0) > 0, terms_NK.max(0), 1.0)  # terms of milliseconds and of bytes alike
    relative_NK = terms_NK / scale_K / figures_N[:, None]

    def solved(kept: Any) -> Any:
        return nnls(relative_NK[kept], np.ones(kept.sum()))[0]

    everything = np.ones(len(figures_N), bool)
    found = solved(everything)
    left_out = []
    for place in range(len(figures_N)):
        kept = everything.copy()
        kept[place] = False
        share = float(relative_NK[place] @ solved(kept))
        left_out.append(math.log(max(share, 1e-6)))
    freedom = max(1, len(figures_N) - int((found > 0).sum()))
    spread = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(math.fsum(r * r for r in left_out) / len(left_out))
    return Fit(
        coefficients=tuple(map(float, found / scale_K)),
        half_log=max(spread, *map(abs, left_out)),
        least=tuple(map(float, terms_NK.min(0))),
        most=tuple(map(float, terms_NK.max(0))),
    )
