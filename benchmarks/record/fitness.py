"""Whether a table is fit for judging: each knob that is meant to change an objective does so by more than its noise."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FLOORS = 5.0
"""A knob is fit for an objective that it changes by more than so many floors."""

Codes: TypeAlias = Mapping[str, npt.NDArray[np.int16]]
Values: TypeAlias = npt.NDArray[np.float64]


def effect(
    codes: Codes, knob: str, under: Collection[str], values: Values, among: npt.NDArray[np.bool_]
) -> float | None:
    """The greatest change between two values of a knob: the median, over all else being equal, of the difference.

    Args:
        codes: knob -> (rows,) the code of its value in each row, -1 where it does not count.
        knob: which one.
        under: the knobs that count only for some values of this one; rows count in which they are at their first value.
        values: (rows,) an objective, as a logarithm where it is compared by ratio; NaN where it is not known.
        among: (rows,) which rows to look at.

    Returns:
        The difference, signed from the earlier to the later value; null where no two rows differ in the knob alone.
    """
    others = [name for name in codes if name != knob and name not in under]
    kept = among & (codes[knob] >= 0) & np.isfinite(values)
    for name in under:
        kept &= codes[name] <= 0
    same: defaultdict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
    for row in np.flatnonzero(kept):
        same[tuple(int(codes[name][row]) for name in others)][int(codes[knob][row])] = float(values[row])
    medians = []
    for first, last in combinations(range(int(codes[knob].max()) + 1), 2):
        changes = [found[last] - found[first] for found in same.values() if first in found and last in found]
        if changes:
            medians.append(float(np.median(changes)))
    return max(medians, key=abs, default=None)


def fitness(
    codes: Codes,
    under: Mapping[str, Collection[str]],
    objectives: Mapping[str, Values],
    floors: Mapping[str, float],
    relative: Collection[str],
    hints: Mapping[str, Mapping[str, bool | str]],
    larger: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """How many floors each knob changes each objective that its hint names, among the rows of the larger models.

    ``floors``: absolute, or a share for the ``relative`` objectives, which are compared as logarithms. ``below`` names
    the changes of too few floors, ``against`` those that do not go the way that the hint says.
    """
    found: dict[str, dict[str, dict[str, float | bool]]] = {}
    below, against = [], []
    for knob, hint in hints.items():
        for name in (name for name in hint if name in objectives):
            ratio = name in relative
            values = np.log(objectives[name]) if ratio else objectives[name]
            change = effect(codes, knob, under[knob], values, larger)
            if change is None:
                continue
            times = abs(change) / (np.log1p(floors[name]) if ratio else floors[name])
            shown = np.expm1(change) if ratio else change
            fit = bool(times > FLOORS)
            found.setdefault(knob, {})[name] = {"change": round(shown, 4), "floors": round(times, 1), "fit": fit}
            if not fit:
                below.append(f"{knob}: {name}")
            if (change > 0) != (hint[name] == "up"):
                against.append(f"{knob}: {name}")
    return {"fit": not below, "below": below, "against": against, "knobs": found}
