"""The peers' adapters, those whose package is in the project's own environment, and what all of them share."""

import numpy as np
import optuna
import pytest

from replay.charging import RULES, Rule
from replay.engine import Seen
from replay.peers.auto_sampler import AutoSampler
from replay.peers.catalog import PEERS
from replay.peers.choices import Choices
from replay.peers.whole_trials import REPEATS, Losses, WholeTrials
from replay.replay import Event, replay
from replay.synthetic import family
from replay.table import Table
from run_peers import Limited, charged
from tests.benchmarks.six_rows import six

FAST = ("optuna_tpe", "optuna_nsga2", "optuna_auto")


@pytest.fixture(scope="module")
def table() -> Table:
    return family(0, items=40)


def played(table: Table, name: str, rule: Rule = "plain", trials: int = 60) -> list[Event]:
    engine = Limited(PEERS[name].make(table.ground(), 1, rule), trials)
    return replay(table, engine, rule, 1, float("inf")).events


@pytest.mark.parametrize("name", FAST)
def test_what_a_peer_returns_is_the_front_of_what_it_measured_and_nothing_is_paid_for_twice(
    table: Table, name: str
) -> None:
    events = played(table, name)
    rows = [event.row for event in events]
    assert len(rows) == len(set(rows)) == 60
    tried = [row for row in rows if table.ok[row]]
    assert len(tried) < 60  # some failed
    signs = np.array([-1.0 if sense == "max" else 1.0 for sense in table.objectives.values()])
    values = table.values * signs
    front = {
        row
        for row in tried
        if not any((values[other] <= values[row]).all() and (values[other] < values[row]).any() for other in tried)
    }
    assert set(next(event.returned for event in reversed(events) if event.returned is not None)) == front


@pytest.mark.parametrize("name", FAST)
def test_a_peer_tries_every_candidate_of_a_small_table_and_then_has_nothing_left(name: str) -> None:
    events = played(six(), name)
    assert sorted(event.row for event in events) == [0, 1, 2, 3, 4, 5]


def test_one_replay_charged_by_both_rules_is_a_replay_under_each(table: Table) -> None:
    events = played(table, "optuna_tpe", "plain", trials=25)
    for rule in RULES:
        again = played(table, "optuna_tpe", rule, trials=25)
        assert [event.row for event in again] == [event.row for event in events]
        costs = np.array(charged(table, rule, events)) - [event.suggesting for event in events]
        np.testing.assert_allclose(costs, [event.charged for event in again])


class Stubborn:
    """Suggests the first candidate for ever."""

    def __init__(self) -> None:
        self.heard: list[Losses | None] = []
        self.taken: list[int] = []

    def suggest(self, choices: Choices) -> int:
        return 0

    def take(self, choices: Choices, row: int) -> None:
        self.taken.append(row)

    def learn(self, losses: Losses | None) -> None:
        self.heard.append(losses)


def test_a_repeated_suggestion_is_answered_from_memory_and_then_a_new_one_is_put_to_the_peer() -> None:
    table, stubborn = six(), Stubborn()
    engine = WholeTrials(table.ground(), stubborn, seed=0)
    events = replay(table, Limited(engine, 2), "plain", 0, float("inf")).events
    first = (-0.5, float(np.log(4.0)), float(np.log(8.0)))
    assert [event.row for event in events] == [0, *stubborn.taken]
    assert 0 not in stubborn.taken
    np.testing.assert_allclose(np.array(stubborn.heard[: REPEATS + 1], dtype=float), np.array([first] * (REPEATS + 1)))
    assert len(stubborn.heard) == REPEATS + 2


def test_a_candidate_that_cannot_be_built_is_told_as_none_and_never_returned() -> None:
    table, stubborn = six(), Stubborn()
    engine = WholeTrials(table.ground(), stubborn, seed=0)
    engine.tell(Seen(row=3, values={}, right=np.zeros(0, dtype=bool), costs={}), "failed", "no such kernel")
    assert stubborn.heard == [None]
    assert engine.returned() == []


class Chooser:
    """Notes which of Optuna's samplers the rule has chosen before each trial."""

    def __init__(self, kinds: dict[str, optuna.distributions.BaseDistribution], conditional: bool = False) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sampler = AutoSampler(0)
        self.study = optuna.create_study(sampler=self.sampler, directions=["minimize"] * 2)
        self.kinds = kinds
        self.conditional = conditional

    def add(self, complete: int) -> None:
        for number in range(complete):
            kinds = dict(list(self.kinds.items())[: 1 + number % 2]) if self.conditional else self.kinds
            params = {name: kind.to_external_repr(0) for name, kind in kinds.items()}
            values = [float(number), -float(number)]
            self.study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, values=values))

    def next(self) -> str:
        self.study.ask()
        return type(self.sampler._sampler).__name__


INTEGERS = {name: optuna.distributions.IntDistribution(0, 3) for name in "ab"}
CATEGORIES = INTEGERS | {"c": optuna.distributions.CategoricalDistribution([0, 1])}


@pytest.mark.parametrize(
    ("kinds", "conditional", "chosen"),
    [
        (INTEGERS, False, ["RandomSampler", "GPSampler", "GPSampler", "NSGAIISampler"]),
        (CATEGORIES, False, ["RandomSampler", "TPESampler", "TPESampler", "NSGAIISampler"]),
        (INTEGERS, True, ["RandomSampler", "GPSampler", "TPESampler", "TPESampler"]),
    ],
)
def test_auto_sampler_chooses_by_its_published_rule(
    kinds: dict[str, optuna.distributions.BaseDistribution], conditional: bool, chosen: list[str]
) -> None:
    chooser = Chooser(kinds, conditional)
    found = [chooser.next()]
    for more in (1, 248, 1):
        chooser.add(more)
        found.append(chooser.next())
    assert found == chosen
