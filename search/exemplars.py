"""The rows that a prompt may show: which ones they are for a task, and what is refused before a search shows any."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from objectives.task import Task, split_digest
from search.checks import IMAGE_TOKENS, values
from spaces.axes.prompt import SPLIT
from spaces.canonical import digest
from spaces.errors import BadInput
from spaces.exemplars import PER_GROUP
from spaces.sample import Sample
from spaces.space import Space


def most_exemplars(space: Space) -> int:
    """The greatest number of exemplars that a candidate of the space shows."""
    return max((int(value) for value in values(space, "prompt.exemplars")), default=0)


def exemplar_pool(space: Space, task: Task, splits: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[Sample, ...]]:
    """The rows that the prompt axis reads, by the split's name that it knows; nothing where the space shows none.

    They are the first ``PER_GROUP`` rows of the task's split for each value of the field, in file order.
    """
    if not most_exemplars(space):
        return {}
    field = task.exemplar_field
    taken: dict[str, int] = {}
    rows = []
    for sample in splits[task.exemplar_split]:
        if field and field not in sample.fields:
            continue
        group = sample.fields[field] if field else ""
        taken[group] = taken.get(group, 0) + 1
        if taken[group] <= PER_GROUP:
            rows.append(replace(sample, group=group))
    return {SPLIT: tuple(rows)}


def pool_digests(pool: Mapping[str, Sequence[Sample]]) -> dict[str, str]:
    """The digest of a pool's content, the groups of its rows included."""
    return {
        name: digest([split_digest(rows), [row.group for row in rows]]) if rows else digest([])
        for name, rows in pool.items()
    }


def refuse_missing_exemplars(
    space: Space, task: Task, splits: Mapping[str, Sequence[Sample]], judged: Mapping[str, Sequence[Sample]]
) -> None:
    """Every candidate must find the exemplars that it is to show, whichever row, by split, it is scored on.

    Raises:
        BadInput: naming the file, and the field or the row: there is no such split, an answer holds the text that
            stands for an image, or a value of the field has too few rows.
    """
    most, split, field = most_exemplars(space), task.exemplar_split, task.exemplar_field
    if not most:
        return
    if split not in splits:
        raise BadInput(f"{task.path}: splits.{split}: this space shows exemplars of it; name its JSONL file.")
    rows = exemplar_pool(space, task, splits)[SPLIT]
    for row in rows:
        for token in IMAGE_TOKENS:
            if token in row.answers[0]:
                raise BadInput(f"{task.splits[split]}: row {row.id!r}: {token!r} stands for an image; take it out.")
    count = Counter(row.group for row in rows)
    for name, item in ((name, item) for name, items in judged.items() for item in items):
        group = item.fields.get(field) if field else ""
        if group is None:
            raise BadInput(
                f"{task.splits[name]}: row {item.id!r} has no field {field!r}, by which exemplars are picked."
            )
        count.setdefault(group, 0)
    for group, having in count.items():
        if having < most:
            rows_of = f"{having} rows with {field}={group}" if field else f"{having} rows"
            raise BadInput(
                f"{task.splits[split]}: it has {rows_of}, and {space.source} shows up to {most} exemplars; "
                "add rows, or lower axes.prompt.exemplars."
            )
