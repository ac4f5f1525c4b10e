"""Pareto functions on plain arrays. All objectives are minimised: callers negate what they want large.

Shapes: ``values`` is (trials, objectives), ``feasible`` (trials,), ``epsilon`` (objectives,). An objective that is
compared by ratio goes in as its logarithm, with ``log1p`` of its relative epsilon.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_PAIRS_AT_ONCE = 2_000_000


def dominates(first: Array, second: Array) -> bool:
    """Whether ``first`` is nowhere worse than ``second`` and somewhere better."""
    return bool(np.all(first <= second) and np.any(first < second))


def nondominated(values: Array, feasible: Mask | None = None, epsilon: Array | None = None) -> Mask:
    """Which trials form the front; infeasible ones neither belong to it nor dominate.

    Without ``epsilon``: the trials that no other dominates; of equal ones, the first.

    With it: a subset of those in which each trial that is left out is matched by a kept one, that is, the kept one is
    nowhere worse by more than epsilon (additive epsilon-dominance; Laumanns et al. 2002, Evolutionary Computation
    10:263). Trials are taken in order of their sum in units of epsilon, and kept unless one kept before matches them.
    With two objectives no kept trial matches another: each differs from each in both by more than epsilon.

    Raises:
        ValueError: for values that are not finite or an epsilon below zero.
    """
    _check_finite(values)
    mask = _exact(values, np.ones(len(values), dtype=bool) if feasible is None else feasible)
    if epsilon is None or not mask.any():
        return mask
    if np.any(epsilon < 0):
        raise ValueError("epsilon is at least 0")
    members = np.flatnonzero(mask)
    above = values[members] - values[members].min(axis=0)
    units = np.where(epsilon > 0, epsilon, 1e-9 * (above.max() or 1.0))
    order = members[np.argsort((above / units).sum(axis=1), kind="stable")]
    kept: list[int] = []
    for index in order:
        if not np.any(np.all(values[kept] <= values[index] + epsilon, axis=1)):
            kept.append(int(index))
    result = np.zeros(len(values), dtype=bool)
    result[kept] = True
    return result


def hypervolume(values: Array, reference: Array) -> float:
    """The exact volume that the points dominate up to ``reference`` (objectives,), for one to three objectives.

    Two objectives by a sweep, three by slices along the last (Zitzler's HSO; While et al. 2006, IEEE Transactions on
    Evolutionary Computation 10:29). Points that are not better than the reference in every objective add nothing.

    Raises:
        ValueError: for more than three objectives, or values that are not finite.
    """
    _check_finite(values)
    points = values[np.all(values < reference, axis=1)]
    if len(points) == 0:
        return 0.0
    match values.shape[1]:
        case 1:
            return float(reference[0] - points.min())
        case 2:
            return _area(points, reference)
        case 3:
            points = points[np.argsort(points[:, 2], kind="stable")]
            heights = np.diff(np.append(points[:, 2], reference[2]))
            return float(sum(h * _area(points[: i + 1, :2], reference[:2]) for i, h in enumerate(heights) if h > 0))
        case k:
            raise ValueError(f"the hypervolume is exact for one to three objectives, not {k}")


def knee(values: Array) -> int:
    """The index of the front's knee: the member with the least sum of objectives, each scaled to 0..1 over the front.

    With two objectives this is the member farthest from the line through the two extremes, on the side of the ideal
    (Das 1999, Structural Optimization 18:107). An objective that does not vary does not count. Ties go to the first.

    Raises:
        ValueError: for an empty front.
    """
    if len(values) == 0:
        raise ValueError("an empty front has no knee")
    _check_finite(values)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    return int(np.argmin(np.round(scaled.sum(axis=1), 12)))


def membership(values: Array, low: Array, high: Array, feasible: Mask, draws: int = 2000, seed: int = 0) -> Array:
    """The probability of each trial to be non-dominated, given its figures' 95 % intervals; (trials,) in 0..1.

    Monte Carlo: each figure is drawn from a two-piece normal about its value, whose 2.5 % and 97.5 % points are the
    ends of its interval. Draws are independent between trials; figures scored on the same items are positively
    correlated, so the probabilities are nearer to each other than paired draws would have them. The same seed gives
    the same result.
    """
    _check_finite(values)
    below, above = (values - low) / 1.96, (high - values) / 1.96
    contenders = np.flatnonzero(_contenders(values, below, above, feasible))
    probability = np.zeros(len(values))
    if len(contenders) == 0:
        return probability
    rng = np.random.default_rng(seed)
    m = len(contenders)
    hits = np.zeros(m)
    at_once = max(1, _PAIRS_AT_ONCE // (m * m))
    for begin in range(0, draws, at_once):
        step = rng.standard_normal((min(at_once, draws - begin), m, values.shape[1]))
        drawn = values[contenders] + step * np.where(step < 0, below[contenders], above[contenders])
        hits += _undominated(drawn).sum(axis=0)
    probability[contenders] = hits / draws
    return probability


def _undominated(drawn: Array) -> Mask:
    """(draws, trials): who is on the front of each draw; ``drawn`` is (draws, trials, objectives)."""
    no_worse = np.ones((*drawn.shape[:2], drawn.shape[1]), dtype=bool)
    for k in range(drawn.shape[2]):
        no_worse &= drawn[:, :, None, k] <= drawn[:, None, :, k]
    earlier = np.triu(np.ones(no_worse.shape[1:], dtype=bool), k=1)
    beats = no_worse & (~no_worse.transpose(0, 2, 1) | earlier)
    return np.asarray(~beats.any(axis=1))


def _contenders(values: Array, below: Array, above: Array, feasible: Mask) -> Mask:
    """Trials whose best case (4 standard deviations) no other feasible trial's worst case dominates."""
    best, worst = values - 4 * below, values + 4 * above
    rivals = worst[_exact(worst, feasible)]
    beaten = np.zeros(len(values), dtype=bool)
    for rival in rivals:
        beaten |= np.all(rival < best, axis=1)
    return feasible & ~beaten


def _exact(values: Array, feasible: Mask) -> Mask:
    mask = feasible.copy()
    indices = np.flatnonzero(feasible)
    order = indices[np.lexsort(values[indices].T[::-1])]
    kept = np.empty((len(order), values.shape[1]))
    count = 0
    for index in order:
        if np.any(np.all(kept[:count] <= values[index], axis=1)):
            mask[index] = False
        else:
            kept[count] = values[index]
            count += 1
    return mask


def _area(points: Array, reference: Array) -> float:
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(points[:, 1])
    widths = np.diff(np.append(points[:, 0], reference[0]))
    return float(np.sum(widths * (reference[1] - lowest)))


def _check_finite(values: Array) -> None:
    if not np.all(np.isfinite(values)):
        raise ValueError("objective values must be finite numbers")
