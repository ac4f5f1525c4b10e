"""At the end of a search, what its reference did all along counts for trials that were measured early, too."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from tests.bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.mark.parametrize("finalists", [True, False])
def test_an_early_interval_learns_from_how_the_reference_strays_later(bench: Bench, finalists: bool) -> None:
    pi, _ = bench.two()
    bench.devices.pop("jetson")
    straying = itertools.cycle((1.0, 1.3, 0.8, 1.1, 1.6))
    real = pi.ms
    pi.ms = lambda bundle: real(bundle) * next(straying)
    bench.search(finalists=finalists).search()
    logs = [math.log(one.measurement.timings[0].e2e_ms) for one in bench.run.read_references("pi")]
    half = t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) * math.sqrt(1 + 1 / len(logs))
    figures = [trial.figures["latency_p50_ms"] for trial in bench.run.read_trials()]
    assert len(figures) == 4
    assert half > 0.3
    for figure in figures:  # a double's answers all take the same time, so nothing but the spread is in the interval
        assert figure.value
        assert figure.low == pytest.approx(figure.value / math.exp(half), rel=5e-3)
        assert figure.high == pytest.approx(figure.value * math.exp(half), rel=5e-3)


def test_a_trial_that_was_raced_out_stays_so(bench: Bench) -> None:
    bench.two()
    bench.devices.pop("jetson")
    bench.search().search()
    out = replace(bench.run.read_trials()[2], state="pruned")
    bench.run.write_trial(out)
    bench.search().search()
    assert bench.run.read_trials()[2] == out
