import pytest

from replay.charging import Ledger
from tests.benchmarks.six_rows import six


def test_plain_pays_every_stage_every_time() -> None:
    ledger = Ledger(six(), "plain")
    assert ledger.build(1) == {"build": 10.0, "quantize": 3.0}
    assert ledger.build(1) == {"build": 10.0, "quantize": 3.0}
    assert (ledger.load(1), ledger.items(1, 5), ledger.measure(1)) == (1.0, 0.5, 2.0)
    assert ledger.total == pytest.approx(2 * 13 + 3.5)


def test_cached_pays_a_prefix_of_knobs_once() -> None:
    ledger = Ledger(six(), "cached")
    assert ledger.build(0) == {"build": 10.0, "quantize": 0.0}
    assert ledger.build(1) == {"build": 0.0, "quantize": 3.0}
    # Another prompt, or none, is on the same build; another model at the same bits is not.
    assert ledger.build(5) == {"build": 0.0, "quantize": 0.0}
    assert ledger.build(3) == {"build": 20.0, "quantize": 5.0}
    assert ledger.build(4) == {"build": 0.0, "quantize": 0.0}
    assert ledger.load(5) == 1.0
    assert ledger.load(5) == 1.0
    assert ledger.total == pytest.approx(10 + 3 + 25 + 2)


def test_what_a_trial_would_cost_is_what_it_then_costs() -> None:
    for rule in ("plain", "cached"):
        ledger = Ledger(six(), rule)
        ledger.build(0)
        expected = ledger.whole(1)
        assert expected == pytest.approx((10 if rule == "plain" else 0) + 3 + 1 + 8 * 0.1 + 2)
        before = ledger.total
        ledger.build(1), ledger.load(1), ledger.items(1, 8), ledger.measure(1)
        assert ledger.total - before == pytest.approx(expected)
