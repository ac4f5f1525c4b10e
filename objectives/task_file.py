"""The form of task.yaml: what may stand in it, checked field by field, and its JSON Schema for editors."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from objectives.metrics import METRICS, SETTINGS
from objectives.normal import normalise
from spaces.errors import BadInput
from spaces.reader import load_yaml, refuse_unknown

SCHEMA = "vlmfront.task/1"
SPLITS = ("train", "calibration", "search", "holdout")
JUDGED = ("search", "holdout")
"""The splits whose answers are scored; nothing else may be made from their rows."""

Text = Annotated[str, Field(min_length=1)]
Cost = Annotated[float, Field(ge=0, le=1e9)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Hints(_Part):
    """Hint texts by the value of a field."""

    field: Text
    values: dict[str, str] = Field(min_length=1)


class MetricForm(_Part):
    """A metric with its settings."""

    name: str
    tolerance: float | None = Field(default=None, ge=0)
    relative: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _known(self) -> "MetricForm":
        if self.name not in METRICS:
            raise ValueError(f"{self.name!r} is no metric; there are {', '.join(sorted(METRICS))}")
        for setting in self.settings:
            if setting not in SETTINGS.get(self.name, ()):
                raise ValueError(f"the metric {self.name} has no {setting}; leave it out")
        return self

    @property
    def settings(self) -> dict[str, float]:
        """The settings that the file gives."""
        return {name: value for name, value in self.model_dump(exclude={"name"}).items() if value is not None}


class CostsForm(_Part):
    """A cost matrix, see :class:`objectives.cost_matrix.Costs`."""

    classes: list[Text] = Field(min_length=2, max_length=1000)
    matrix: list[list[Cost]]
    other: Cost | None = None
    unknown: Cost | None = None
    where: dict[str, Annotated[list[str], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _square(self) -> "CostsForm":
        count = len(self.classes)
        if len({normalise(name) for name in self.classes}) < count:
            raise ValueError("two of the classes are the same answer after normalising; name each once")
        if len(self.matrix) != count or any(len(row) != count for row in self.matrix):
            raise ValueError(f"the matrix needs {count} rows (truth) of {count} costs (answer), one for each class")
        return self


class ExemplarsForm(_Part):
    """Where a prompt's exemplars come from."""

    split: Text = "train"
    field: Text | None = None


class ColumnsForm(_Part):
    """The names of a set's columns, by what they hold."""

    id: Text | None = None
    image: Text | None = None
    question: Text | None = None
    answer: Text | None = None
    answers: Text | None = None


def _named(given: Any) -> Any:
    return {"name": given} if isinstance(given, str) else given


class TaskForm(_Part):
    """A task file."""

    schema_: Literal["vlmfront.task/1"] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=80)
    metric: Annotated[MetricForm, BeforeValidator(_named, json_schema_input_type=Literal[tuple(METRICS)] | MetricForm)]
    slices: list[str] = []
    splits: dict[str, Text] = Field(min_length=1)
    columns: ColumnsForm = ColumnsForm()
    question: Text | None = None
    max_new_tokens: int = Field(default=16, ge=1, le=4096)
    hints: Hints | None = None
    unknown: list[Text] = ["unknown"]
    costs: CostsForm | None = None
    exemplars: ExemplarsForm = ExemplarsForm()

    @model_validator(mode="after")
    def _fit_together(self) -> "TaskForm":
        given = self.exemplars.split
        if given in JUDGED:
            raise ValueError(
                f"exemplars.split: the {given} split judges answers, take exemplars from another, as train"
            )
        if "split" in self.exemplars.model_fields_set and given not in self.splits:
            raise ValueError(f"exemplars.split: {given!r} is none of the splits {', '.join(self.splits)}")
        if self.exemplars.field == "answer":
            raise ValueError("exemplars.field: exemplars picked by the answer would give it away, name another field")
        if self.columns.answer and self.columns.answers:
            raise ValueError("columns: give either 'answer', a column of texts, or 'answers', one of lists")
        if self.columns.question and self.question:
            raise ValueError("question: it is the same for all rows, or in a column; give one of the two")
        return self


_PARTS: dict[str, type[BaseModel]] = {
    "hints": Hints,
    "metric": MetricForm,
    "costs": CostsForm,
    "exemplars": ExemplarsForm,
    "columns": ColumnsForm,
}


def read_task_file(path: Path) -> TaskForm:
    """The checked content of a task file.

    Raises:
        BadInput: one sentence that names the file and the field, and the nearest name for an unknown one.
    """
    document = load_yaml(path, SCHEMA)
    refuse_unknown(document, [field.alias or name for name, field in TaskForm.model_fields.items()], str(path))
    for name, part in _PARTS.items():
        if isinstance(document.get(name), dict):
            refuse_unknown(document[name], part.model_fields, f"{path}: {name}")
    try:
        return TaskForm.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        cure = "; put it in quotes" if first["type"] == "string_type" else ""
        raise BadInput(f"{path}: {field + ': ' if field else ''}{reason[:1].lower()}{reason[1:]}{cure}.") from None


def task_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of task files."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return head | TaskForm.model_json_schema(by_alias=True)
