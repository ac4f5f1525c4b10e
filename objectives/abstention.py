"""Answers that say "unknown": how many there are, and how accurate the rest is."""

from collections.abc import Sequence

from objectives.accuracy import accuracy
from objectives.normal import normalise
from objectives.task import Task
from objectives.trial import Figure
from spaces.sample import Sample


def is_abstention(answer: str, sample: Sample, unknown: Sequence[str]) -> bool:
    """Whether an answer is one of ``unknown`` after normalising, and none of the row's references is the same."""
    given = normalise(answer)
    return given in map(normalise, unknown) and given not in map(normalise, sample.answers)


def abstention(answers: Sequence[str], samples: Sequence[Sample], task: Task) -> Figure:
    """The share of answers that are abstentions, with its 95 % Wilson interval; null without samples."""
    return accuracy([float(left) for left in _abstained(answers, samples, task)])


def accuracy_answered(answers: Sequence[str], samples: Sequence[Sample], task: Task) -> Figure:
    """Accuracy over the rows that were answered, with its 95 % Wilson interval; null where none was."""
    abstained = _abstained(answers, samples, task)
    rows = zip(answers, samples, abstained, strict=True)
    return accuracy([task.score(answer, sample) for answer, sample, left in rows if not left])


def _abstained(answers: Sequence[str], samples: Sequence[Sample], task: Task) -> list[bool]:
    return [is_abstention(answer, sample, task.unknown) for answer, sample in zip(answers, samples, strict=True)]
