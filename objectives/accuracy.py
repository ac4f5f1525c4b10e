"""Accuracy with its uncertainty: over all items, over slices of them, and between two candidates on the same items."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from objectives.trial import Figure
from spaces.sample import Sample

Z95 = 1.959963984540054  # standard normal quantile at 0.975


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209; recommended by Brown, Cai and DasGupta 2001).

    A sum of scores in [0, 1] may stand for ``successes``: such scores vary less than a proportion of equal mean, so
    the interval is then wider than it need be.

    Raises:
        ValueError: for n < 1 or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials is not a proportion")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def accuracy(scores: Sequence[float]) -> Figure:
    """The mean of scores in [0, 1] with its 95 % Wilson interval; null without any."""
    if not scores:
        return Figure(value=None)
    total = math.fsum(scores)
    low, high = wilson(total, len(scores))
    return Figure(value=total / len(scores), low=low, high=high, n=len(scores))


def accuracy_slices(
    samples: Sequence[Sample], scores: Sequence[float], fields: Sequence[str]
) -> dict[str, dict[str, Figure]]:
    """Accuracy by each of ``fields`` and its values (:meth:`spaces.sample.Sample.value`), sorted."""
    slices: dict[str, dict[str, Figure]] = {}
    for field in fields:
        groups: defaultdict[str, list[float]] = defaultdict(list)
        for sample, score in zip(samples, scores, strict=True):
            groups[sample.value(field)].append(score)
        slices[field] = {value: accuracy(groups[value]) for value in sorted(groups)}
    return slices


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> Figure:
    """How much more ``first`` scores than ``second`` over the items (by id) that both have, with a 95 % interval.

    The mean difference as it is; its interval after Agresti and Min (2005, Statistics in Medicine 24:729): Wald's
    interval after half an observation is added to each of the four outcomes of a pair, which keeps its coverage where
    few pairs differ. Scores between 0 and 1 go the same way. Null without common items.
    """
    common = first.keys() & second.keys()
    if not common:
        return Figure(value=None)
    differences = [first[key] - second[key] for key in sorted(common)]
    n = len(differences)
    total, squares = math.fsum(differences), math.fsum(d * d for d in differences)
    centre = total / (n + 2)
    half = Z95 * math.sqrt(((squares + 1) / (n + 2) - centre * centre) / (n + 2))
    return Figure(value=total / n, low=max(-1.0, centre - half), high=min(1.0, centre + half), n=n)
