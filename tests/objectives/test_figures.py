import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from scipy.stats import t as student_t

from hardware_profiles.messages import Measurement, Process, Timing
from objectives.accuracy import accuracy, accuracy_slices, paired_difference, wilson
from objectives.energy import energy_figure
from objectives.latency import (
    BETWEEN_PROCESSES,
    LEAST_N,
    between_processes,
    bootstrap,
    latency_figure,
    latency_figures,
    least_n,
    percentile,
    ranks,
    student_975,
)
from objectives.memory import memory_above_figure, memory_figure, size_figure
from objectives.noise import LEAST_RELATIVE, half_width, noise_floor
from objectives.trial import Figure
from spaces.sample import Sample


def timing(e2e: float, ttft: float = 2.0, tokens: int = 3) -> Timing:
    marks = tuple(float(x) for x in np.linspace(ttft, e2e, tokens))
    return Timing(
        id="x", text="up", preprocess_ms=None, vision_ms=None, prefill_ms=None, ttft_ms=ttft, e2e_ms=e2e, token_ms=marks
    )


def measurement(*timings: Timing, verdict: str = "valid") -> Measurement:
    return Measurement(
        verdict=verdict,  # type: ignore[arg-type]
        reasons=(),
        mode="provisional",
        processes=(
            Process(
                load_s=0.25,
                first_ms=9.0,
                warmup_answers=3,
                timings=timings,
                memory_peak_bytes=123_456_789,
                memory_baseline_bytes=1,
                energy_j=None,
                idle_w=None,
                properties={},
            ),
        ),
        energy_source="no counter",
    )


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_figure() -> None:
    figure = accuracy([1.0] * 9 + [0.0])
    assert figure.value == 0.9
    assert figure.n == 10
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < 0.9 < figure.high
    assert accuracy([]) == Figure(value=None)
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_accuracy_slices() -> None:
    samples = [
        Sample(id=str(i), image=Path("x"), question="q", answers=("a",), fields={"kind": kind})
        for i, kind in enumerate(["b", "a", "a"])
    ]
    slices = accuracy_slices(samples, [1.0, 0.0, 1.0], ["kind", "wording"])
    assert list(slices["kind"]) == ["a", "b"]
    assert slices["kind"]["a"] == accuracy([0.0, 1.0])
    assert slices["wording"][""] == accuracy([1.0, 0.0, 1.0])


def test_paired_difference_covers_the_true_difference() -> None:
    """Coverage over many simulated pairs of raters whose true difference is known."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        outcome = rng.choice(4, size=60, p=[0.8, 0.1, 0.04, 0.06])
        first = {str(i): float(o in (0, 1)) for i, o in enumerate(outcome)}
        second = {str(i): float(o in (0, 2)) for i, o in enumerate(outcome)}
        figure = paired_difference(first, second)
        assert figure.low is not None
        assert figure.high is not None
        covered += figure.low <= 0.06 <= figure.high
    assert 930 <= covered <= 990


def test_paired_difference_by_hand() -> None:
    first = {"a": 1.0, "b": 1.0, "c": 0.0, "only": 1.0}
    second = {"a": 1.0, "b": 0.0, "c": 0.0, "other": 1.0}
    figure = paired_difference(first, second)
    assert figure.n == 3
    assert figure.value == pytest.approx(1 / 3)
    cells = np.array([1.5, 1.5, 0.5, 0.5])  # alike (both outcomes), first better, second better, each with its half
    p = (cells[1] - cells[2]) / 5 - 0  # Agresti-Min with 2 agreeing pairs: b* = 1.5, c* = 0.5, n* = 5
    se = math.sqrt((cells[1] + cells[2]) - (cells[1] - cells[2]) ** 2 / 5) / 5
    assert figure.low == pytest.approx(p - 1.959964 * se, abs=1e-6)
    assert figure.high == pytest.approx(p + 1.959964 * se, abs=1e-6)
    assert paired_difference({"a": 1.0}, {"b": 1.0}) == Figure(value=None)


@pytest.mark.parametrize("n", [6, 11, 12, 25, 64, 301])
def test_the_ranks_of_a_median_are_the_narrowest_with_the_confidence(n: int) -> None:
    low, high = ranks(n, 0.5)
    assert high == n - 1 - low
    assert 1 - 2 * binom.cdf(low, n, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(low + 1, n, 0.5) < 0.95


@pytest.mark.parametrize(("n", "share"), [(64, 0.9), (130, 0.95), (662, 0.99), (20_000, 0.9)])
def test_the_ranks_of_a_percentile_are_scipys_binomial_quantiles(n: int, share: float) -> None:
    """The indices are those of the tightest order statistics with at most 2.5 % beyond either of them."""
    low, high = ranks(n, share)
    assert binom.cdf(low, n, share) <= 0.025 < binom.cdf(low + 1, n, share)
    assert high == binom.ppf(0.975, n, share)
    assert binom.cdf(high, n, share) - binom.cdf(low, n, share) >= 0.95


@pytest.mark.parametrize(("share", "published"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_least_n_is_mlperfs_and_scipys(share: float, published: int) -> None:
    """MLPerf's loadgen asks for at least 64 queries for a p90 and 662 for a p99 before it gives an estimate."""
    assert least_n(share) == published
    assert binom.cdf(1, published, 1 - share) <= 0.01 < binom.cdf(1, published - 1, 1 - share)


@pytest.mark.parametrize("draw", [lambda r: r.exponential(size=25), lambda r: r.standard_t(2, size=25)])
def test_median_interval_covers_whatever_the_distribution(draw: Callable[[np.random.Generator], np.ndarray]) -> None:
    rng = np.random.default_rng(11)
    true = math.log(2) if draw(np.random.default_rng(0)).min() >= 0 else 0.0
    figures = [percentile([list(draw(rng))], 0.5) for _ in range(1000)]
    covered = sum(f.low <= true <= f.high for f in figures if f.low is not None and f.high is not None)
    assert covered >= 940


def test_p90_interval_covers_the_true_p90() -> None:
    rng = np.random.default_rng(3)
    figures = [percentile([list(rng.exponential(size=64))], 0.9) for _ in range(500)]
    true = -math.log(0.1)
    assert sum(f.low <= true <= f.high for f in figures if f.low is not None and f.high is not None) >= 465


def test_too_few_timings_have_no_percentile() -> None:
    assert percentile([[1.0] * (LEAST_N - 1)], 0.5).value is None
    figure = percentile([[float(x) for x in range(1, 12)]], 0.5, between_processes=0.1)
    assert figure == Figure(value=6.0, low=2 / 1.1, high=10 * 1.1, n=11)
    with pytest.raises(ValueError):
        ranks(5, 0.5)
    assert percentile([[1.0] * 63], 0.9) == Figure(value=None, n=63)
    assert percentile([[1.0] * 64], 0.9).value == 1.0


def naive_bootstrap(processes: list[list[float]], share: float, seed: int) -> tuple[float, float]:
    """Written out answer by answer, with a generator of its own."""
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(4000):
        pooled = []
        for _ in processes:
            chosen = processes[rng.randint(len(processes))]
            pooled += [chosen[rng.randint(len(chosen))] for _ in chosen]
        found.append(np.percentile(pooled, 100 * share))
    return float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_cluster_bootstrap_agrees_with_an_independent_one(share: float) -> None:
    rng = np.random.default_rng(8)
    processes = [list(10 * shift + rng.normal(size=15)) for shift in (1.0, 1.02, 1.1, 1.2, 1.05)]
    expected = naive_bootstrap(processes, share, seed=5)
    assert bootstrap(processes, share) == pytest.approx(expected, abs=0.12)


def test_the_interval_of_finalists_is_that_of_processes_not_of_answers() -> None:
    """Two processes apart: pooled order statistics would be sure of the middle, the clusters are not."""
    near, far = [[10.0 + row / 1e3 for row in range(50)]], [[12.0 + row / 1e3 for row in range(50)]]
    apart = percentile(near * 3 + far * 2, 0.5)
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low < 10.1
    assert apart.high > 12.0
    alike = percentile(near * 5, 0.5)
    assert alike.high is not None
    assert alike.low is not None
    assert alike.high - alike.low < 0.05


def test_latency_figures() -> None:
    figures = latency_figures(measurement(*[timing(10.0 + i) for i in range(11)]))
    assert figures["latency_p50_ms"].value == 15.0
    assert figures["ttft_p50_ms"].value == 2.0
    assert figures["token_p50_ms"].value == pytest.approx((15.0 - 2.0) / 2)
    assert figures["load_s"].value == 0.25
    assert figures["latency_p90_ms"] == Figure(value=None, n=11)


def test_tails_appear_where_the_bound_allows() -> None:
    figures = latency_figures(measurement(*[timing(10.0 + i) for i in range(130)]))
    assert figures["latency_p90_ms"].value == pytest.approx(np.percentile(np.arange(10.0, 140.0), 90))
    assert figures["latency_p95_ms"].value == pytest.approx(np.percentile(np.arange(10.0, 140.0), 95))
    assert figures["latency_p99_ms"] == Figure(value=None, n=130)


def finalist(joules: list[float | None]) -> Measurement:
    one = measurement(timing(10.0))
    return replace(one, processes=tuple(replace(one.processes[0], energy_j=value) for value in joules))


def test_energy_is_the_median_of_processes_or_null() -> None:
    assert energy_figure(finalist([0.5])) == Figure(value=0.5, n=1)
    assert energy_figure(finalist([0.5, 0.4, 0.7, 0.6, 0.55])) == Figure(value=0.55, low=0.4, high=0.7, n=5)
    assert energy_figure(finalist([0.5, None])) == Figure(value=None)
    assert energy_figure(finalist([-0.1])) == Figure(value=None)
    assert energy_figure(replace(finalist([0.5]), verdict="invalid")) == Figure(value=None)


def test_one_token_answers_have_no_time_between_tokens() -> None:
    assert timing(3.0, 3.0, tokens=1).inter_token_ms is None
    assert timing(11.0, 3.0, tokens=5).inter_token_ms == 2.0
    figures = latency_figures(measurement(*[timing(3.0, 3.0, tokens=1) for _ in range(20)]))
    assert figures["token_p50_ms"].value is None
    assert figures["latency_p50_ms"].value == 3.0


def test_invalid_measurements_give_no_figures() -> None:
    bad = measurement(*[timing(10.0)] * 20, verdict="invalid")
    assert {figure.value for figure in latency_figures(bad).values()} == {None}
    assert memory_figure(bad).value is None
    assert memory_above_figure(bad).value is None


def test_memory_and_size_are_in_megabytes() -> None:
    assert memory_figure(measurement()).value == pytest.approx(123.456789)
    assert memory_above_figure(measurement()).value == pytest.approx(123.456788)
    known = measurement()
    on_gpu = replace(known, processes=(replace(known.processes[0], accelerator_peak_bytes=2_000_000_000),))
    assert memory_figure(on_gpu).value == pytest.approx(2123.456789)
    assert memory_above_figure(on_gpu).value == pytest.approx(2123.456788)
    assert size_figure(2_500_000) == Figure(value=2.5, low=2.5, high=2.5, n=1)


def test_noise_floor() -> None:
    figures = [Figure(value=0.9, low=0.88, high=0.92), Figure(value=0.5, low=0.46, high=0.54), Figure(value=None)]
    assert noise_floor(figures, relative=False) == pytest.approx(0.03)
    assert noise_floor(figures, relative=True) == pytest.approx((0.02 / 0.9 + 0.04 / 0.5) / 2)
    assert noise_floor([size_figure(9)], relative=True) == LEAST_RELATIVE
    assert noise_floor([], relative=False) == 0.0
    assert half_width(Figure(value=0.0, low=0.0, high=0.1), relative=True) is None


@pytest.mark.parametrize("p50", [[10.0, 11.0, 9.5, 10.4], [10.0, 12.0, 14.0], [10.0, 10.01, 10.0, 10.0]])
def test_the_spread_between_processes_is_a_prediction_interval_of_the_logarithms(p50: list[float]) -> None:
    references = [measurement(*[timing(value)] * 11) for value in p50]
    logs = np.log(np.array(p50))
    n = len(p50)
    half = student_t.ppf(0.975, n - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / n)
    expected = max(BETWEEN_PROCESSES, np.exp(half) - 1)
    assert between_processes(references) == pytest.approx(expected, rel=0.01)
    assert between_processes(references[:2]) == BETWEEN_PROCESSES
    slow = measurement(*[timing(99.0)] * 11)
    disturbed = replace(slow, processes=(replace(slow.processes[0], disturbed_p50_ms=(120.0, 130.0)),))
    others = [disturbed, replace(slow, verdict="invalid"), *references]
    assert between_processes(others) == between_processes(references)
    few = [disturbed, replace(slow, verdict="invalid"), *references[:2]]
    spread = np.log([99.0, *p50[:2]]).std(ddof=1)
    wide = np.exp(student_t.ppf(0.975, 2) * spread * np.sqrt(1 + 1 / 3)) - 1
    assert between_processes(few) == pytest.approx(wide, rel=0.01)
    assert between_processes(few[:3]) == BETWEEN_PROCESSES, "two that are not invalid say nothing"


@pytest.mark.parametrize("freedom", [2, 3, 4, 5, 8, 20, 100])
def test_students_quantile_is_scipys(freedom: int) -> None:
    assert student_975(freedom) == pytest.approx(student_t.ppf(0.975, freedom), rel=0.005)


def test_the_interval_of_a_disturbed_measurement_reaches_to_every_attempt() -> None:
    timings = [timing(10.0 + place / 10) for place in range(21)]
    plain = latency_figure("latency_p50_ms", measurement(*timings), 0.0)
    one = measurement(*timings)
    process = replace(one.processes[0], disturbed_p50_ms=(33.0, 12.0))
    wide = latency_figure("latency_p50_ms", replace(one, processes=(process,)), 0.0)
    assert (wide.value, wide.low) == (plain.value, plain.low)
    assert wide.high == pytest.approx(plain.high * 3)  # type: ignore[operator]
