"""How one answer is scored against its references, and the baseline that never looks at an image."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectives.anls import anls
from objectives.normal import normalise
from objectives.numbers import first_number, numeric
from objectives.vqa import vqa_soft
from spaces.sample import Sample


def exact(answer: str, sample: Sample) -> float:
    """1.0 where the answer equals one of the references after :func:`objectives.normal.normalise`, else 0.0."""
    given = normalise(answer)
    return float(any(given == normalise(reference) for reference in sample.answers))


def contains(answer: str, sample: Sample) -> float:
    """1.0 where one of the references stands in the answer as whole words, both normalised, else 0.0."""
    given = f" {normalise(answer)} "
    return float(any(f" {normalise(reference)} " in given for reference in sample.answers))


METRICS: Mapping[str, Callable[..., float]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "vqa_soft": vqa_soft,
    "anls": anls,
}
"""By name: an answer and its sample, and the metric's settings as keywords, to a score in [0, 1]."""

SETTINGS: Mapping[str, tuple[str, ...]] = {"numeric": ("tolerance", "relative")}
"""The settings of the metrics that have any."""


@dataclass(frozen=True)
class Metric:
    """A name in ``METRICS`` with its settings; called with an answer and its sample it gives a score in [0, 1]."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, answer: str, sample: Sample) -> float:
        return METRICS[self.name](answer, sample, **self.settings)

    def takes(self, sample: Sample) -> bool:
        """Whether a sample can be scored: ``numeric`` needs a number in a reference."""
        return self.name != "numeric" or any(first_number(text) is not None for text in sample.answers)

    @property
    def spec(self) -> str | dict[str, Any]:
        """The metric as a task file writes it: its name, or a mapping of name and settings."""
        return {"name": self.name, **self.settings} if self.settings else self.name


def commonest_answers(seen: Sequence[Sample], asked: Sequence[Sample], field: str = "") -> tuple[str, ...]:
    """What "always the commonest answer" says to each of ``asked``: the best blind guess that ``seen`` allows.

    Samples are grouped by ``field`` (a task's hint field, such as the kind of question); without one, by the text of
    the question. Each group's answer is its commonest canonical answer in ``seen``; a group with fewer than two samples
    there gets the commonest answer overall. Ties go to the answer that comes first in alphabetical order. With
    ``seen`` the same as ``asked`` no constant answer per group can do better on exact match.

    Raises:
        ValueError: when ``seen`` is empty.
    """
    if not seen:
        raise ValueError("the commonest answer needs at least one sample")
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for sample in seen:
        answer = normalise(sample.answers[0])
        groups[_group(sample, field)][answer] += 1
        overall[answer] += 1
    fallback = _commonest(overall)
    best = {name: _commonest(counts) for name, counts in groups.items() if counts.total() > 1}
    return tuple(best.get(_group(sample, field), fallback) for sample in asked)


def _group(sample: Sample, field: str) -> str:
    return sample.fields.get(field, "") if field else sample.question


def _commonest(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
