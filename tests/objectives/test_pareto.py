import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.pareto import Array, dominates, hypervolume, knee, membership, nondominated


@st.composite
def points(draw: st.DrawFn, most: int = 12) -> Array:
    """Points on a small grid, so that ties and equal points are common."""
    k = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), min_size=1, max_size=most))
    return np.array(rows, dtype=float)


def brute_front(values: Array, feasible: list[bool]) -> list[bool]:
    def beaten(i: int) -> bool:
        for j in range(len(values)):
            if feasible[j] and j != i:
                better = all(a <= b for a, b in zip(values[j], values[i], strict=True))
                equal = all(a == b for a, b in zip(values[j], values[i], strict=True))
                if better and (not equal or j < i):
                    return True
        return False

    return [feasible[i] and not beaten(i) for i in range(len(values))]


@given(points(), st.data())
def test_front_is_what_pairwise_comparison_gives(values: Array, data: st.DataObject) -> None:
    feasible = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    assert nondominated(values, np.array(feasible)).tolist() == brute_front(values, feasible)


@given(points(), st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=3, max_size=3))
def test_epsilon_front_covers_the_front_and_its_members_differ(values: Array, floors: list[float]) -> None:
    epsilon = np.array(floors[: values.shape[1]])
    feasible = np.ones(len(values), dtype=bool)
    front = nondominated(values, feasible)
    thin = nondominated(values, feasible, epsilon)
    assert not np.any(thin & ~front)
    for value in values:
        assert any(np.all(member <= value + epsilon) for member in values[thin])
    if values.shape[1] == 2:
        members = values[thin]
        for i, first in enumerate(members):
            for j, second in enumerate(members):
                assert i == j or np.any(first > second + epsilon)


def test_epsilon_keeps_the_faster_of_two_that_are_as_accurate() -> None:
    values = np.array([[-0.951, 20.0], [-0.950, 10.0], [-0.70, 5.0]])
    assert nondominated(values, epsilon=np.array([0.01, 0.5])).tolist() == [False, True, True]


def test_infeasible_points_neither_join_nor_dominate() -> None:
    values = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert nondominated(values, np.array([False, True])).tolist() == [False, True]
    assert nondominated(values, np.array([False, False])).tolist() == [False, False]
    assert nondominated(np.empty((0, 2))).tolist() == []


def test_dominates() -> None:
    a = np.array([1.0, 2.0])
    assert dominates(a, np.array([1.0, 3.0]))
    assert not dominates(a, a)
    assert not dominates(a, np.array([0.0, 9.0]))


@given(points(most=7))
@settings(max_examples=60)
def test_hypervolume_is_the_count_of_dominated_unit_cells(values: Array) -> None:
    reference = np.full(values.shape[1], 6.0)
    cells = np.stack(np.meshgrid(*[np.arange(6)] * values.shape[1], indexing="ij"), axis=-1).reshape(
        -1, values.shape[1]
    )
    expected = sum(any(np.all(point <= cell) for point in values) for cell in cells)
    assert hypervolume(values, reference) == pytest.approx(expected)


def test_hypervolume_matches_sampling_off_the_grid() -> None:
    rng = np.random.default_rng(3)
    values = rng.random((15, 3))
    reference = np.array([1.0, 0.9, 1.1])
    darts = rng.random((200_000, 3)) * reference
    hit = np.zeros(len(darts), dtype=bool)
    for value in values:
        hit |= np.all(value <= darts, axis=1)
    assert hypervolume(values, reference) == pytest.approx(hit.mean() * reference.prod(), abs=0.006)


def test_hypervolume_refuses_four_objectives_and_nan() -> None:
    with pytest.raises(ValueError, match="one to three"):
        hypervolume(np.zeros((1, 4)), np.ones(4))
    with pytest.raises(ValueError, match="finite"):
        hypervolume(np.array([[np.nan, 0.0]]), np.ones(2))


def test_knee_is_farthest_from_the_line_through_the_extremes() -> None:
    values = np.array([[0.0, 10.0], [1.0, 6.0], [2.0, 2.0], [6.0, 1.5], [10.0, 0.0]])
    line = np.array([10.0, -10.0]) / np.hypot(10, 10)
    distance = [(value - values[0])[0] * line[1] - (value - values[0])[1] * line[0] for value in values]
    assert knee(values) == int(np.argmax(np.abs(distance))) == 2
    assert knee(np.array([[3.0, 3.0]])) == 0


def test_membership_of_two_rivals_is_the_closed_form() -> None:
    """One objective, two normals: P(first below second) = Phi(difference / sd of the difference)."""
    from scipy.stats import norm

    values = np.array([[1.0], [1.5], [9.0]])
    half = np.array([[0.8], [0.6], [0.1]])
    found = membership(values, values - half, values + half, np.ones(3, dtype=bool), draws=20_000, seed=1)
    expected = norm.cdf(0.5 / np.hypot(0.8 / 1.96, 0.6 / 1.96))
    assert found[0] == pytest.approx(expected, abs=0.01)
    assert found[1] == pytest.approx(1 - expected, abs=0.01)
    assert found[2] == 0


def test_membership_is_certain_without_uncertainty_and_repeats_with_its_seed() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((40, 2))
    feasible = rng.random(40) < 0.7
    exact = membership(values, values, values, feasible, draws=3)
    assert exact.tolist() == nondominated(values, feasible).astype(float).tolist()
    wide = [membership(values, values - 0.1, values + 0.1, feasible, draws=50, seed=7) for _ in range(2)]
    assert wide[0].tolist() == wide[1].tolist()
    assert not wide[0][~feasible].any()
