from collections.abc import Sequence

import numpy as np
import pytest

from replay.analytic import analytic
from replay.charging import RULES, Rule
from replay.engine import Next, Seen, State
from replay.listing import shuffled
from replay.replay import replay
from replay.synthetic import family
from tests.benchmarks.six_rows import six


class Scripted:
    """Tries rows with fixed steps each; remembers what it was shown."""

    def __init__(self, *trials: tuple[int, Sequence[Next]]) -> None:
        self._trials = list(trials)
        self._steps: list[Next] = []
        self.shown: list[Seen] = []
        self.told: list[tuple[Seen, State, str]] = []
        self.front: list[int] = []

    def ask(self) -> int | None:
        if not self._trials:
            return None
        row, steps = self._trials.pop(0)
        self._steps = list(steps)
        return row

    def proceed(self, seen: Seen) -> Next:
        self.shown.append(seen)
        return self._steps.pop(0)

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        self.told.append((seen, state, reason))
        if state == "ok":
            self.front.append(seen.row)

    def returned(self) -> Sequence[int]:
        return self.front


def test_a_trial_shows_what_it_has_paid_for() -> None:
    engine = Scripted((1, [3, "measure", 99]))
    events = replay(six(), engine, "plain", seed=0, cap=1e9).events
    order = np.random.default_rng(0).permutation(8)
    built, scored, measured = engine.shown
    assert built.values == {"size_mb": 2.0}
    assert built.costs == {"build": 10.0, "quantize": 3.0, "load": 0.0, "items": 0.0, "measure": 0.0}
    assert scored.right.tolist() == six().answers[1][order[:3]].tolist()
    assert scored.values == {"size_mb": 2.0}
    assert scored.costs["load"] == 1.0
    assert scored.costs["items"] == pytest.approx(0.3)
    assert measured.values == {"size_mb": 2.0, "latency_ms": 2.0}
    seen, state, _ = engine.told[0]
    assert state == "ok"
    assert seen.values == {"accuracy": 0.375, "size_mb": 2.0, "latency_ms": 2.0}
    assert seen.right.tolist() == six().answers[1][order].tolist()
    assert [(event.row, event.items, event.returned) for event in events] == [(1, 8, (1,))]
    assert events[0].charged == pytest.approx(13 + 1 + 0.8 + 2)
    assert events[0].cost >= events[0].charged


def test_a_stopped_trial_pays_for_what_it_did() -> None:
    engine = Scripted((4, ["stop"]), (4, [2, "stop"]), (0, ["measure", "stop"]))
    events = replay(six(), engine, "cached", seed=0, cap=1e9).events
    assert [event.charged for event in events] == pytest.approx([20, 21.6, 34.6])
    assert [event.state for event in events] == ["stopped"] * 3
    assert [event.returned for event in events] == [None] * 3


def test_a_failed_trial_pays_its_stages_and_shows_no_values() -> None:
    engine = Scripted((3, []))
    events = replay(six(), engine, "plain", seed=0, cap=1e9).events
    assert events[0].charged == 25
    seen, state, reason = engine.told[0]
    assert (dict(seen.values), state, reason) == ({}, "failed", "no such kernel")


def test_the_cap_ends_a_replay_after_the_trial_that_passes_it() -> None:
    whole: list[Next] = ["measure", 8]
    engine = Scripted(*((row, whole) for row in (0, 1, 2)))
    assert [event.row for event in replay(six(), engine, "plain", seed=0, cap=20).events] == [0, 1]


def test_enough_ends_a_replay() -> None:
    whole: list[Next] = ["measure", 8]
    engine = Scripted(*((row, whole) for row in (0, 1, 2)))
    found = replay(six(), engine, "plain", 0, 1e9, enough=lambda rows: 1 in rows)
    assert [event.row for event in found.events] == [0, 1]


@pytest.mark.parametrize("steps", [["measure", "measure"], [0], [-3], ["later"]])
def test_an_engine_that_breaks_the_protocol_is_refused(steps: list[Next]) -> None:
    with pytest.raises(ValueError, match="measured once"):
        replay(six(), Scripted((0, steps)), "plain", seed=0, cap=1e9)


def test_an_engine_returns_only_what_it_tried() -> None:
    engine = Scripted((0, ["measure", 8]))
    engine.front = [2]
    with pytest.raises(ValueError, match="tried"):
        replay(six(), engine, "plain", seed=0, cap=1e9)


def test_items_come_in_one_order_for_a_seed() -> None:
    def shown(seed: int, row: int) -> list[bool]:
        engine = Scripted((row, [8, "stop"]))
        replay(six(), engine, "plain", seed=seed, cap=1e9)
        right: list[bool] = engine.told[0][0].right.tolist()
        return right

    assert shown(3, 0) == shown(3, 0)
    order = np.random.default_rng(3).permutation(8)
    for row in (0, 2, 4):
        assert shown(3, row) == six().answers[row][order].tolist()


@pytest.mark.parametrize("rule", RULES)
def test_a_replay_repeats_but_for_the_engines_own_time(rule: Rule) -> None:
    table = family(0, items=16)

    def run(seed: int) -> list[tuple[object, ...]]:
        events = replay(table, shuffled(table.ground(), seed, rule), rule, seed, cap=1e9, enough=many).events
        return [(e.row, e.state, e.items, e.charged, e.returned) for e in events]

    def many(rows: Sequence[int]) -> bool:
        return len(rows) >= 10

    assert run(4) == run(4)
    assert run(4) != run(5)


def test_a_listing_returns_the_non_dominated_of_what_it_tried() -> None:
    table = analytic("zdt3", 2)
    events = replay(table, shuffled(table.ground(), 1, "plain"), "plain", seed=1, cap=2000).events
    tried = np.array([event.row for event in events])
    last = next(event.returned for event in reversed(events) if event.returned is not None)
    front = {
        int(row)
        for row in tried
        if not any(
            np.all(table.values[other] <= table.values[row]) and np.any(table.values[other] < table.values[row])
            for other in tried
        )
    }
    assert set(last) == front
