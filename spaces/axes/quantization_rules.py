"""Which bits go with which group sizes: pure rules, known before anything is built."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from spaces.axes import Choice

GROUP_SIZES = (32, 64, 128)
PARTS: Mapping[str, str] = {"weights": "language model", "vision": "vision encoder", "projector": "projector"}
"""The knobs that give a part's bits, with the name of the part."""

Widths: TypeAlias = Mapping[str, Sequence[int]]
"""Knob of `PARTS` -> row lengths of the linear layers of that part; a part that is missing is not known."""


def illegal(choice: Choice, widths: Widths) -> str | None:
    """What is wrong with a choice for a model of these widths, and the nearest choice that is supported; null if legal.

    A row of int4 weights is cut into groups of ``group_size``, so each must divide every row of the parts at int4. All
    other combinations of mode, method and ratio are supported.
    """
    wanted = int(choice["group_size"])
    int4 = {knob: widths.get(knob, ()) for knob in PARTS if choice[knob] == "int4"}
    misfit = next((knob for knob, rows in int4.items() if any(row % wanted for row in rows)), None)
    if misfit is None:
        return None
    nearest = nearest_group([row for rows in int4.values() for row in rows], wanted)
    unfit = next((knob for knob, rows in int4.items() if nearest_group(rows, wanted) is None), misfit)
    cure = f"take {nearest}" if nearest else f"take quantization.{unfit} int8"
    listed = ", ".join(str(row) for row in sorted(set(int4[misfit])))
    return f"quantization.group_size {wanted} does not divide the {PARTS[misfit]}'s widths ({listed}): {cure}."


def nearest_group(widths: Sequence[int], wanted: int) -> int | None:
    """The group size nearest to ``wanted``, of those on offer, that divides every width; null where none does."""
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    return min(fitting, key=lambda size: (abs(size - wanted), size), default=None)
