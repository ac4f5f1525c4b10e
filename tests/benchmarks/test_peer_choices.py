"""From a peer's choice of knobs to a candidate, against brute force."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.engine import Ground
from replay.peers.choices import Choices
from tests.benchmarks.six_rows import six

ONE = {"one": ("only",)}  # a knob that leaves nothing to choose
KNOBS = {"gate": ("off", "on"), "inner": (0, 1, 2), "deep": ("a", "b"), "free": (1, 2, 3, 4)}


def ground(rows: list[tuple[int, ...]]) -> Ground:
    """``inner`` counts where the gate is on, ``deep`` at the last of ``inner``; ``inner`` and ``free`` are ordered."""
    return Ground(
        knobs=ONE | {name: KNOBS[name] for name in ("deep", "inner", "gate", "free")},
        codes=np.array([(0, deep, inner, gate, free) for gate, inner, deep, free in rows], dtype=np.int16),
        stages=(),
        stage_knobs={},
        objectives={"a": "min"},
        reference={"a": 1.0},
        floor={"a": 0.0},
        logarithmic=frozenset(),
        measured=frozenset(),
        hints={"inner": {"ordered": True}, "free": {"ordered": True}},
        items=0,
    )


def canonical(gate: int, inner: int, deep: int, free: int) -> tuple[int, ...]:
    return (gate, inner if gate else -1, deep if gate and inner == 2 else -1, free)


ALL = sorted({canonical(*codes) for codes in itertools.product(range(2), range(3), range(2), range(4))})


@given(st.tuples(*(st.integers(0, len(values) - 1) for values in KNOBS.values())))
def test_knobs_that_do_not_count_make_no_difference(codes: tuple[int, int, int, int]) -> None:
    choices = Choices(ground(ALL), seed=0)
    picked = dict(zip(KNOBS, codes, strict=True))
    assert choices.row(picked.__getitem__) == ALL.index(canonical(*codes))


def test_only_knobs_that_count_are_asked_for_and_what_decides_it_comes_first() -> None:
    choices = Choices(ground(ALL), seed=0)
    asked: list[str] = []

    def pick(knob: str) -> int:
        asked.append(knob)
        return 1

    assert choices.row(pick) == ALL.index((1, 1, -1, 1))
    assert asked == ["gate", "free", "inner"]


@given(
    st.sets(st.sampled_from(ALL), min_size=1),
    st.tuples(*(st.integers(0, len(values) - 1) for values in KNOBS.values())),
)
def test_a_choice_outside_the_table_becomes_the_nearest_candidate(
    kept: set[tuple[int, ...]], codes: tuple[int, int, int, int]
) -> None:
    rows = sorted(kept)
    choices = Choices(ground(rows), seed=0)
    picked: dict[str, int] = {}

    def pick(knob: str) -> int:
        picked[knob] = dict(zip(KNOBS, codes, strict=True))[knob]
        return picked[knob]

    found = choices.row(pick)

    def distance(row: tuple[int, ...]) -> float:
        scale = {"gate": 0, "inner": 2, "deep": 0, "free": 3}
        total = 0.0
        for (knob, span), code in zip(scale.items(), row, strict=True):
            if code >= 0 and knob in picked and code != picked[knob]:
                total += abs(code - picked[knob]) / span if span else 1.0
        return total

    if canonical(*codes) in kept:
        assert rows[found] == canonical(*codes)
    assert distance(rows[found]) <= min(map(distance, rows)) + 1e-9


def test_every_candidate_is_found_by_its_own_knobs() -> None:
    table = six()
    choices = Choices(table.ground(), seed=0)
    assert [choices.row(choices.chosen(row).__getitem__) for row in (0, 1, 2, 3, 4)] == [0, 1, 2, 3, 4]
