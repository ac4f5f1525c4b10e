"""A task: its YAML file and its evaluation sets, checked in full before any work starts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from objectives.metrics import METRICS
from spaces.canonical import canonical_json, digest, file_digest
from spaces.errors import BadInput
from spaces.images import read_image
from spaces.reader import load_yaml, refuse_unknown
from spaces.sample import Sample

SCHEMA = "vlmfront.task/1"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is to do, and the sets it is judged by.

    Attributes:
        path: the task file.
        metric: a name in :data:`objectives.metrics.METRICS`.
        slices: fields of a row by whose values accuracy is given apart.
        splits: split -> its JSONL file.
        max_new_tokens: longest answer, in tokens.
        hint_field, hints: as in :class:`spaces.prompting.Prompt`.
    """

    path: Path
    name: str
    metric: str
    slices: tuple[str, ...]
    splits: Mapping[str, Path]
    max_new_tokens: int
    hint_field: str = ""
    hints: Mapping[str, str]


class _Hints(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    field: str = Field(min_length=1)
    values: dict[str, str] = Field(min_length=1)


class _TaskFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Literal["vlmfront.task/1"] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=80)
    metric: str
    slices: list[str] = []
    splits: dict[str, str] = Field(min_length=1)
    max_new_tokens: int = Field(default=16, ge=1, le=4096)
    hints: _Hints | None = None

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"{metric!r} is no metric; there are {', '.join(sorted(METRICS))}")
        return metric


def load_task(path: Path) -> Task:
    """The task in a YAML file; its sets are read by :func:`read_split`.

    Raises:
        BadInput: one sentence that names the file and the field, and the nearest name for an unknown one.
    """
    document = load_yaml(path, SCHEMA)
    refuse_unknown(document, [field.alias or name for name, field in _TaskFile.model_fields.items()], str(path))
    if isinstance(document.get("hints"), dict):
        refuse_unknown(document["hints"], _Hints.model_fields, f"{path}: hints")
    try:
        file = _TaskFile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{path}: {field}: {reason[:1].lower()}{reason[1:]}.") from None
    return Task(
        path=path,
        name=file.name,
        metric=file.metric,
        slices=tuple(file.slices),
        splits={name: path.parent / file for name, file in file.splits.items()},
        max_new_tokens=file.max_new_tokens,
        hint_field=file.hints.field if file.hints else "",
        hints=file.hints.values if file.hints else {},
    )


def task_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of task files."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return head | _TaskFile.model_json_schema(by_alias=True)


def read_split(task: Task, split: str) -> tuple[Sample, ...]:
    """All rows of one split, in file order. Every image is decoded in full, once.

    Raises:
        BadInput: one sentence that names the file and the line: no such split or file, no rows, a line that is not a
            JSON object, a field that is missing or of the wrong kind, an id twice, an image that is missing, damaged,
            too large or no image.
    """
    if split not in task.splits:
        refuse_unknown({split: None}, task.splits, f"{task.path}: splits")
    path = task.splits[split]
    samples: list[Sample] = []
    first_seen: dict[str, int] = {}
    checked: set[Path] = set()
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        sample = _sample(row, path.parent, where)
        if sample.id in first_seen:
            raise BadInput(f"{where}: id {sample.id!r} stands on line {first_seen[sample.id]} already; make it unique.")
        first_seen[sample.id] = line
        if sample.image not in checked:
            try:
                read_image(sample.image)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
            checked.add(sample.image)
        samples.append(sample)
    if not samples:
        raise BadInput(f"{path}: the {split} split is empty; write one JSON object a line.")
    return tuple(samples)


def read_splits(task: Task, splits: Sequence[str]) -> dict[str, tuple[Sample, ...]]:
    """Several splits, as :func:`read_split` reads each.

    Raises:
        BadInput: as there, and for an id that two of the splits share: what a choice was made on must not judge it.
    """
    sets: dict[str, tuple[Sample, ...]] = {}
    owner: dict[str, str] = {}
    for split in splits:
        sets[split] = read_split(task, split)
        for sample in sets[split]:
            if sample.id in owner:
                raise BadInput(
                    f"{task.splits[split]}: id {sample.id!r} is also in the {owner[sample.id]} split; "
                    "splits must not share rows."
                )
            owner[sample.id] = split
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield line, _object(text, f"{path}, line {line}")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such evaluation set; correct the path in the task file.") from None
    except OSError as error:
        raise BadInput(f"{path}: the evaluation set cannot be read ({error.strerror}).") from None


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: this is not JSON; write one object a line.") from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: a JSON object is expected, with id, image, question and answer.")
    return row


def _sample(row: dict[str, Any], folder: Path, where: str) -> Sample:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: half a character (a lone surrogate) is no text; write it whole.") from None
    for name in ("id", "image", "question"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise BadInput(f"{where}: the field {name!r} is missing, empty or no text.")
    if ("answer" in row) == ("answers" in row):
        raise BadInput(f"{where}: give either 'answer', a text, or 'answers', a list of texts.")
    answers = [row["answer"]] if "answer" in row else row["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise BadInput(f"{where}: an answer is a text that is not empty; numbers go in quotes.")
    used = {"id", "image", "question", "answer", "answers"}
    return Sample(
        id=row["id"],
        image=folder / row["image"],
        question=row["question"],
        answers=tuple(answers),
        fields={name: _as_text(value, f"{where}: {name}") for name, value in row.items() if name not in used},
    )


def _as_text(value: Any, where: str) -> str:
    try:
        return value if isinstance(value, str) else canonical_json(value)
    except ValueError:
        raise BadInput(f"{where}: NaN and infinities are no values.") from None
