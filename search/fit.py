"""What a task must have for a space: splits, hints and exemplars that its candidates are built and asked with."""

from objectives.task import Task, read_splits
from objectives.task_file import JUDGED, SPLITS
from search.checks import refuse_image_tokens, refuse_missing_hints, refuse_missing_splits, refuse_prompts
from search.exemplars import most_exemplars, refuse_missing_exemplars
from spaces.sample import Sample
from spaces.space import Space


def fitting_splits(space: Space, task: Task, items: int | None = None) -> dict[str, tuple[Sample, ...]]:
    """Every split that a search of the space reads, all candidates fit to be built from them and judged by them.

    ``items``: how many rows of the search split score a trial; null for all. All holdout rows judge what is picked.

    Raises:
        BadInput: one sentence naming file, field or row.
    """
    refuse_prompts(space, task)
    needed = [split for split in SPLITS if split in task.splits or split == "search"]
    if most_exemplars(space) and task.exemplar_split in task.splits and task.exemplar_split not in needed:
        needed.append(task.exemplar_split)
    splits = read_splits(task, needed)
    refuse_missing_splits(space, splits, task.path)
    refuse_image_tokens(space, task, splits)
    judged = {name: splits[name][: items if name == "search" else None] for name in JUDGED if name in splits}
    refuse_missing_hints(space, task, judged)
    refuse_missing_exemplars(space, task, splits, judged)
    return splits
