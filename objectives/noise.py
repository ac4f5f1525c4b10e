"""The noise floor of a figure: the difference between two trials below which neither is called better."""

import statistics
from collections.abc import Iterable

from objectives.trial import Figure

LEAST_RELATIVE = 0.01
"""Where figures are compared by their ratio, 1 % is the least difference that counts."""


def half_width(figure: Figure, *, relative: bool) -> float | None:
    """Half of the 95 % interval, as a share of the value if ``relative``; null where there is no interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    half = (figure.high - figure.low) / 2
    if not relative:
        return half
    return half / figure.value if figure.value > 0 else None


def noise_floor(figures: Iterable[Figure], *, relative: bool) -> float:
    """The median half-width of the figures' 95 % intervals, the epsilon of epsilon-dominance.

    Absolute, or ``relative`` (0.05 is 5 %) with at least ``LEAST_RELATIVE``. Without intervals: 0, or that least.
    """
    widths = [width for figure in figures if (width := half_width(figure, relative=relative)) is not None]
    floor = statistics.median(widths) if widths else 0.0
    return max(floor, LEAST_RELATIVE) if relative else floor
