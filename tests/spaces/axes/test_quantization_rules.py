import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.axes import Value
from spaces.axes.quantization import AXIS
from spaces.axes.quantization_rules import GROUP_SIZES, illegal, nearest_group
from tests.spaces.axes.conftest import full_choice

WIDTHS = {"weights": (64, 128), "vision": (96, 64), "projector": (48, 64)}


@pytest.mark.parametrize(
    ("widths", "wanted", "nearest"),
    [([192, 512], 128, 64), ([256, 768], 128, 128), ([96, 256], 128, 32), ([48], 32, None), ([128], 32, 32)],
)
def test_the_nearest_group_by_hand(widths: list[int], wanted: int, nearest: int | None) -> None:
    assert nearest_group(widths, wanted) == nearest


@given(st.lists(st.integers(1, 40).map(lambda n: 16 * n), min_size=1), st.sampled_from(GROUP_SIZES))
def test_the_nearest_group_divides_and_no_other_that_does_is_nearer(widths: list[int], wanted: int) -> None:
    nearest = nearest_group(widths, wanted)
    dividing = {size for size in GROUP_SIZES if not any(width % size for width in widths)}
    assert (nearest is None) == (not dividing)
    if nearest is not None:
        assert nearest in dividing
        assert abs(nearest - wanted) == min(abs(size - wanted) for size in dividing)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"weights": "int4", "group_size": 64}, None),
        ({"weights": "int4", "group_size": 128}, "128 does not divide the language model's widths (64, 128): take 64."),
        ({"weights": "int8", "vision": "int8", "projector": "int8", "group_size": 128}, None),
        ({"vision": "int4", "group_size": 32}, None),
        ({"vision": "int4", "group_size": 64}, "64 does not divide the vision encoder's widths (64, 96): take 32."),
        ({"weights": "int4", "vision": "int4", "group_size": 128}, "language model's widths (64, 128): take 32."),
        (
            {"projector": "int4", "group_size": 64},
            "projector's widths (48, 64): take quantization.projector int8.",
        ),
        ({"weights": "int4", "projector": "int4", "group_size": 64}, "take quantization.projector int8"),
        *(({"weights": "int4", "method": method, "mode": "asym", "ratio": 0.5}, None) for method in ("awq", "gptq")),
    ],
)
def test_what_is_illegal_and_the_nearest_that_is_not(choice: dict[str, Value], said: str | None) -> None:
    found = illegal(full_choice(AXIS, choice), WIDTHS)
    assert (found is None) if said is None else (said in str(found))


def test_widths_that_are_not_known_are_not_judged() -> None:
    assert illegal(full_choice(AXIS, {"vision": "int4", "group_size": 128}), {}) is None
