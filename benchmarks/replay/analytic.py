"""Analytic problems on a grid with a cost overlay, as tables without items.

ZDT1 to ZDT3 (Zitzler, Deb & Thiele 2000, Evolutionary Computation 8:173), DTLZ2 with three objectives (Deb, Thiele,
Laumanns & Zitzler 2002, CEC) and the vehicle crash-worthiness problem (Tanabe & Ishibuchi 2020, Applied Soft Computing
89:106078, RE3-5-4; with the reference point of BoTorch's VehicleSafety), of five variables with six levels each: 7,776
candidates. In ZDT and DTLZ the level of each distance variable that is best is drawn from the seed, so that no corner
of the grid is a lucky start.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from replay.header import Value
from replay.table import Table

Array = npt.NDArray[np.float64]
VARIABLES = 5
LEVELS = 6
# The variables of position come last: what is cheap to change decides where on the front a candidate lies.
STAGE_KNOBS: Mapping[str, tuple[str, ...]] = {"first": ("x4", "x3"), "second": ("x2",), "third": ("x1", "x0")}
SECONDS = (17.0, 5.0, 1.5)  # of each stage, on average
FLOOR = 0.002  # of an objective, as a share of its range
_MEASURE = 0.5


def zdt1(position: Array, distance: Array) -> Array:
    g = 1 + 9 * distance.mean(axis=1)
    f = position[:, 0]
    return np.stack([f, g * (1 - np.sqrt(f / g))], axis=1)


def zdt2(position: Array, distance: Array) -> Array:
    g = 1 + 9 * distance.mean(axis=1)
    f = position[:, 0]
    return np.stack([f, g * (1 - (f / g) ** 2)], axis=1)


def zdt3(position: Array, distance: Array) -> Array:
    g = 1 + 9 * distance.mean(axis=1)
    f = position[:, 0]
    return np.stack([f, g * (1 - np.sqrt(f / g) - f / g * np.sin(10 * np.pi * f))], axis=1)


def dtlz2(position: Array, distance: Array) -> Array:
    """``distance`` is how far each variable is from its best, twice what the paper's (x - 0.5) is."""
    g = ((distance / 2) ** 2).sum(axis=1)
    first, second = position[:, 0] * np.pi / 2, position[:, 1] * np.pi / 2
    shape = [np.cos(first) * np.cos(second), np.cos(first) * np.sin(second), np.sin(first)]
    return np.stack([(1 + g) * f for f in shape], axis=1)


def vehicle(position: Array, distance: Array) -> Array:  # noqa: ARG001
    """Mass, acceleration and intrusion; all five variables are of position, and go from 1 to 3."""
    a, b, c, d, e = (1 + 2 * position).T
    mass = 1640.2823 + 2.3573285 * a + 2.3220035 * b + 4.5688768 * c + 7.7213633 * d + 4.4559504 * e
    acceleration = 6.5856 + 1.15 * a - 1.0427 * b + 0.9738 * c + 0.8364 * d - 0.3695 * a * d + 0.0861 * a * e
    acceleration += 0.3628 * b * d - 0.1106 * a**2 - 0.3437 * c**2 + 0.1764 * d**2
    intrusion = -0.0551 + 0.0181 * a + 0.1024 * b + 0.0421 * c - 0.0073 * a * b + 0.024 * b * c - 0.0118 * b * d
    intrusion += -0.0204 * c * d - 0.008 * c * e - 0.0241 * b**2 + 0.0109 * d**2
    return np.stack([mass, acceleration, intrusion], axis=1)


# name -> the formula, how many variables are of position, and the reference point.
PROBLEMS: Mapping[str, tuple[Callable[[Array, Array], Array], int, tuple[float, ...]]] = {
    "zdt1": (zdt1, 1, (1.1, 3.0)),
    "zdt2": (zdt2, 1, (1.1, 3.0)),
    "zdt3": (zdt3, 1, (1.1, 3.0)),
    "dtlz2": (dtlz2, 2, (1.2, 1.2, 1.2)),
    "vehicle": (vehicle, 5, (1864.72022, 11.81993945, 0.2903999384)),
}


def analytic(problem: str, seed: int) -> Table:
    """A table of one of `PROBLEMS`; each stage's seconds are log-normal, drawn once per prefix of knobs."""
    formula, leading, reference = PROBLEMS[problem]
    rng = np.random.default_rng(seed)
    codes = np.indices((LEVELS,) * VARIABLES, dtype=np.int16).reshape(VARIABLES, -1).T
    levels = tuple(k / (LEVELS - 1) for k in range(LEVELS))
    x = np.array(levels)[codes]
    best = rng.integers(0, LEVELS, VARIABLES - leading) / (LEVELS - 1)
    distance = np.abs(x[:, leading:] - best) / np.maximum(best, 1 - best)
    values = formula(x[:, :leading], distance)
    names = [f"f{k + 1}" for k in range(len(reference))]
    knobs: dict[str, tuple[Value, ...]] = {f"x{k}": levels for k in range(VARIABLES)}
    rows = len(codes)
    table = Table(
        task=f"{problem} on a grid, seed {seed}",
        device="none: a formula",
        items=0,
        holdout_items=0,
        knobs=knobs,
        stages=tuple(STAGE_KNOBS),
        stage_knobs=STAGE_KNOBS,
        objectives=dict.fromkeys(names, "min"),
        reference=dict(zip(names, reference, strict=True)),
        floor=dict(zip(names, (FLOOR * np.ptp(values, axis=0)).tolist(), strict=True)),
        hints={knob: {"ordered": True} for knob in knobs},
        codes=codes,
        state=np.full(rows, "ok"),
        reason=np.full(rows, ""),
        costs=np.zeros((rows, len(STAGE_KNOBS))),
        load_s=np.zeros(rows),
        item_s=np.zeros(rows),
        measure_s=np.full(rows, _MEASURE),
        values=values,
    )
    for k, seconds in enumerate(SECONDS):
        prefix = table.prefixes[:, k]
        table.costs[:, k] = seconds * np.exp(rng.normal(-0.125, 0.5, prefix.max() + 1))[prefix]
    return table
