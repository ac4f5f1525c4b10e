"""A task: its YAML file and its evaluation sets, checked in full before any work starts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from objectives.cost_matrix import Costs
from objectives.metrics import Metric
from objectives.rows import sample_of
from objectives.sets import rows_of
from objectives.task_file import JUDGED, CostsForm, read_task_file
from spaces.canonical import digest, file_digest
from spaces.errors import BadInput
from spaces.images import read_image
from spaces.reader import refuse_unknown
from spaces.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is to do, and the sets it is judged by.

    Attributes:
        path: the task file.
        metric: how one answer is scored.
        slices: fields of a row by whose values accuracy is given apart; ``answer`` is the first reference.
        splits: split -> its JSONL or CSV file, or the folder of a saved Hugging Face dataset.
        max_new_tokens: longest answer, in tokens.
        hint_field, hints: as in :class:`spaces.prompting.Prompt`.
        columns: what a row holds (id, image, question, answer, answers) -> the set's column, where the names differ.
        question: the question of every row, where the sets have none.
        unknown: answers that count as abstention.
        costs: what wrong answers cost, where the task says so.
        exemplar_split: the split that a prompt's exemplars are taken from.
        exemplar_field: exemplars share the value of this field with the question; empty for any row.
    """

    path: Path
    name: str
    metric: Metric
    slices: tuple[str, ...]
    splits: Mapping[str, Path]
    max_new_tokens: int
    hint_field: str = ""
    hints: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    question: str = ""
    unknown: tuple[str, ...] = ("unknown",)
    costs: Costs | None = None
    exemplar_split: str = "train"
    exemplar_field: str = ""

    def score(self, answer: str, sample: Sample) -> float:
        """How right an answer is by the task's metric, in [0, 1]."""
        return self.metric(answer, sample)


def load_task(path: Path) -> Task:
    """The task in a YAML file; its sets are read by :func:`read_split`.

    Raises:
        BadInput: one sentence that names the file and the field, and the nearest name for an unknown one.
    """
    form = read_task_file(path)
    hint_field = form.hints.field if form.hints else ""
    return Task(
        path=path,
        name=form.name,
        metric=Metric(form.metric.name, form.metric.settings),
        slices=tuple(form.slices),
        splits={name: path.parent / place for name, place in form.splits.items()},
        max_new_tokens=form.max_new_tokens,
        hint_field=hint_field,
        hints=form.hints.values if form.hints else {},
        columns=form.columns.model_dump(exclude_none=True),
        question=form.question or "",
        unknown=tuple(form.unknown),
        costs=_costs(form.costs) if form.costs else None,
        exemplar_split=form.exemplars.split,
        exemplar_field=form.exemplars.field or hint_field,
    )


def read_split(task: Task, split: str) -> tuple[Sample, ...]:
    """All rows of one split, in order. Every image is decoded in full, once.

    Raises:
        BadInput: one sentence that names the file and the line: no such split or set, no rows, a row that cannot be
            read, a field that is missing or of the wrong kind, an id twice, a reference that the metric or the costs
            cannot use, an image that is missing, damaged, too large or no image; a field that the task tells rows
            apart by and that no row has.
    """
    if split not in task.splits:
        refuse_unknown({split: None}, task.splits, f"{task.path}: splits")
    path = task.splits[split]
    samples: list[Sample] = []
    first_seen: dict[str, str] = {}
    checked: set[Path] = set()
    for number, (place, row) in enumerate(rows_of(path, task.columns), start=1):
        where = f"{path}, {place}"
        sample = sample_of(row, task.columns, task.question, path, f"{split}-{number}", where)
        _refuse_useless(task, sample, where)
        if sample.id in first_seen:
            raise BadInput(f"{where}: id {sample.id!r} stands on {first_seen[sample.id]} already; make it unique.")
        first_seen[sample.id] = place
        if sample.image not in checked:
            try:
                read_image(sample.image)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
            checked.add(sample.image)
        samples.append(sample)
    if not samples:
        raise BadInput(f"{path}: the {split} split is empty; it needs at least one row.")
    _refuse_unknown_fields(task, split, samples)
    return tuple(samples)


def read_splits(task: Task, splits: Sequence[str]) -> dict[str, tuple[Sample, ...]]:
    """Several splits, as :func:`read_split` reads each.

    Raises:
        BadInput: as there, and for an id that two of the splits share: what a choice was made on must not judge it.
            So must no image (by its bytes) with its question, whatever the ids.
    """
    sets: dict[str, tuple[Sample, ...]] = {}
    owner: dict[tuple[str, ...], tuple[str, str]] = {}
    images: dict[Path, str] = {}
    for split in splits:
        sets[split] = read_split(task, split)
        for sample in sets[split]:
            if sample.image not in images:
                images[sample.image] = file_digest(sample.image)
            content = (images[sample.image], sample.question)
            for key, what in (((sample.id,), "id"), (content, "the image with the question of row")):
                other, other_id = owner.setdefault(key, (split, sample.id))
                if other != split:
                    raise BadInput(
                        f"{task.splits[split]}: {what} {sample.id!r} is also in the {other} split "
                        f"({task.splits[other]}, row {other_id!r}); splits must not share rows."
                    )
    return sets


def split_digest(samples: Sequence[Sample]) -> str:
    """The sha256 of a split's content: every row's fields and the bytes of its image, in order; paths do not count."""
    images: dict[Path, str] = {}
    rows = []
    for sample in samples:
        if sample.image not in images:
            images[sample.image] = file_digest(sample.image)
        fields = dict(sample.fields)
        rows.append([sample.id, images[sample.image], sample.question, list(sample.answers), fields])
    return digest(rows)


def _costs(form: CostsForm) -> Costs:
    other = [max(row) if form.other is None else form.other for row in form.matrix]
    return Costs(
        classes=tuple(form.classes),
        matrix=tuple(tuple(row) for row in form.matrix),
        other=tuple(other),
        unknown=tuple(other) if form.unknown is None else (form.unknown,) * len(other),
        where={field: tuple(values) for field, values in form.where.items()},
    )


def _refuse_useless(task: Task, sample: Sample, where: str) -> None:
    if not task.metric.takes(sample):
        raise BadInput(
            f"{where}: the metric {task.metric.name} cannot use the answer {sample.answers[0]!r}; correct it."
        )
    costs = task.costs
    if costs and costs.judged(sample) and costs.class_of(sample.answers[0]) is None:
        raise BadInput(
            f"{where}: the answer {sample.answers[0]!r} is none of the classes of costs in {task.path} "
            f"({', '.join(costs.classes)}); correct it, or narrow costs.where."
        )


def _refuse_unknown_fields(task: Task, split: str, samples: Iterable[Sample]) -> None:
    wanted = (
        {"slices": task.slices, "costs.where": tuple(task.costs.where) if task.costs else ()} if split in JUDGED else {}
    )
    if split == task.exemplar_split and task.exemplar_field != task.hint_field:
        wanted["exemplars.field"] = (task.exemplar_field,)
    known = {"answer"}.union(*(sample.fields for sample in samples))
    for name, fields in wanted.items():
        refuse_unknown(dict.fromkeys(fields), known, f"{task.path}: {name} (fields of {task.splits[split]})")
