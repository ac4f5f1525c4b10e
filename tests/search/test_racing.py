import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.registry import OBJECTIVES
from objectives.trial import Figure, State, Trial
from search.racing import ALPHA, Race, rival

N = 48
RACES = 2000


def raced_out(rng: np.random.Generator, own: np.ndarray, other: np.ndarray) -> int | None:
    """At which item a race over the shuffled items is lost; null where it is not."""
    order = rng.permutation(len(own))
    race = Race({str(item): float(other[item]) for item in order}, len(own))
    for place, item in enumerate(order, start=1):
        if race.see(str(item), float(own[item])):
            return place
    return None


@pytest.mark.parametrize(("wins", "losses"), [(8, 8), (4, 3)])
def test_one_that_is_as_accurate_is_raced_out_less_often_than_alpha(wins: int, losses: int) -> None:
    rng = np.random.default_rng(wins)
    own, other = np.zeros(N), np.zeros(N)
    own[:wins] = 1
    other[wins : wins + losses] = 1
    lost = sum(raced_out(rng, own, other) is not None for _ in range(RACES))
    assert lost / RACES < ALPHA


def test_soft_scores_that_are_equal_in_all_are_raced_out_less_often_than_alpha() -> None:
    rng = np.random.default_rng(2)
    own = rng.random(N)
    other = rng.permutation(own)
    lost = sum(raced_out(rng, own, other) is not None for _ in range(RACES))
    assert lost / RACES < ALPHA


def test_one_that_is_far_behind_is_raced_out_early() -> None:
    rng = np.random.default_rng(1)
    own, other = rng.random(512) < 0.6, rng.random(512) < 0.9
    places = [raced_out(rng, own, other) for _ in range(50)]
    assert all(place is not None and place < 150 for place in places)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_capital_is_never_negative_and_a_certain_loss_is_lost(pairs: list[tuple[float, float]]) -> None:
    race = Race({str(place): other for place, (_, other) in enumerate(pairs)}, len(pairs))
    ahead = 0.0
    for place, (own, _) in enumerate(pairs):
        certain = -ahead > len(pairs) - place  # even one ahead on every item that is left ends behind
        lost = race.see(str(place), own)
        assert (race._capital >= 0).all()
        assert lost or not certain
        ahead += own - pairs[place][1]
    assert race.left == 0


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=7))
def test_the_capital_is_a_fair_game_where_both_are_equal(differences: list[int]) -> None:
    """Averaged over every order of differences whose sum is 0, each step leaves the expected capital as it was."""
    from itertools import permutations

    total = sum(differences)
    population = [*differences, *([-1 if total > 0 else 1] * abs(total))][:7]
    if sum(population) != 0:
        return
    capitals = []
    for order in set(permutations(population)):
        race = Race({str(place): float(d < 0) for place, d in enumerate(order)}, len(order))
        for place, d in enumerate(order):
            race.see(str(place), float(d > 0))
        capitals.append(race._capital)
    assert np.mean(capitals, axis=0) == pytest.approx(np.ones(10))


def trial(number: int, accuracy: float | None, latency: float, size: float = 1.0, state: State = "complete") -> Trial:
    figures = {
        "latency_p50_ms": Figure(value=latency),
        "size_mb": Figure(value=size),
        "accuracy": Figure(value=accuracy),
    }
    return Trial(number=number, candidate_id=str(number), candidate={}, state=state, figures=figures)


def test_the_rival_is_the_most_accurate_of_those_no_worse_beyond_noise() -> None:
    trials = [trial(0, 0.7, 5.0), trial(1, 0.8, 9.0), trial(2, 0.9, 9.8), trial(3, 0.99, 1.0, state="infeasible")]
    known = {"latency_p50_ms": Figure(value=10.0), "size_mb": Figure(value=1.0)}
    two = [OBJECTIVES["accuracy"], OBJECTIVES["latency_p50_ms"]]

    def number(floors: dict[str, float], names: list[str]) -> int | None:
        found = rival(trials, known, [OBJECTIVES[name] for name in names], floors)
        return found.number if found else None

    assert number({"latency_p50_ms": 0.05}, ["accuracy", "latency_p50_ms"]) == 1
    assert number({}, ["accuracy", "latency_p50_ms"]) == 2
    assert number({"latency_p50_ms": 2.0}, ["accuracy", "latency_p50_ms"]) is None
    assert number({}, ["accuracy"]) == 2
    assert number({}, ["latency_p50_ms"]) is None
    assert number({}, ["accuracy", "latency_p50_ms", "agreement"]) is None
    assert rival([trial(0, None, 1.0)], known, two, {}) is None
    smaller = [*trials, trial(4, 0.85, 5.0, size=0.5)]
    found = rival(smaller, known | {"size_mb": Figure(value=0.6)}, [*two, OBJECTIVES["size_mb"]], {})
    assert found is not None
    assert found.number == 4
