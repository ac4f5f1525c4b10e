"""What a candidate's answers cost by the task's cost matrix, and which answers were taken for which."""

import math
from collections.abc import Sequence

from objectives.accuracy import wilson
from objectives.cost_matrix import OTHER, UNKNOWN, Costs
from objectives.task import Task
from objectives.trial import Figure
from spaces.sample import Sample


def expected_cost(answers: Sequence[str], samples: Sequence[Sample], task: Task) -> Figure:
    """The mean cost of a judged row, with a 95 % interval; null where no row is judged.

    The interval is Wilson's for the mean of the costs brought to [0, 1] by their least and greatest possible value, and
    brought back: the rule of soft accuracy scores (:func:`objectives.accuracy.wilson`). Where rare errors cost most, a
    Student t interval ends far too low while none or few of them were seen; this one does not.

    Raises:
        ValueError: the task has no costs.
    """
    costs, outcomes = _outcomes(answers, samples, task)
    if not outcomes:
        return Figure(value=None)
    n = len(outcomes)
    mean = math.fsum(costs.cost(truth, answer) for truth, answer in outcomes) / n
    least, greatest = costs.range
    if least == greatest:
        return Figure(value=mean, low=mean, high=mean, n=n)
    share = min(1.0, max(0.0, (mean - least) / (greatest - least)))
    low, high = (least + end * (greatest - least) for end in wilson(share * n, n))
    return Figure(value=mean, low=min(low, mean), high=max(high, mean), n=n)


def confusion(answers: Sequence[str], samples: Sequence[Sample], task: Task) -> dict[str, dict[str, int]]:
    """How often each class (outer keys) got each answer: the classes, then ``OTHER`` and ``UNKNOWN``.

    Raises:
        ValueError: the task has no costs.
    """
    costs, outcomes = _outcomes(answers, samples, task)
    table = {truth: dict.fromkeys((*costs.classes, OTHER, UNKNOWN), 0) for truth in costs.classes}
    for truth, answer in outcomes:
        table[costs.classes[truth]][costs.classes[answer] if isinstance(answer, int) else answer] += 1
    return table


def _outcomes(
    answers: Sequence[str], samples: Sequence[Sample], task: Task
) -> tuple[Costs, list[tuple[int, int | str]]]:
    costs = task.costs
    if costs is None:
        raise ValueError(f"the task {task.name!r} has no costs")
    rows = zip(answers, samples, strict=True)
    return costs, [costs.outcome(answer, sample, task.unknown) for answer, sample in rows if costs.judged(sample)]
