"""From a set's row to a sample: which column holds what, and whether it can be used."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spaces.canonical import canonical_json
from spaces.errors import BadInput
from spaces.sample import Sample

FIELDS = ("id", "image", "question", "answer", "answers")


def column_names(columns: Mapping[str, str]) -> dict[str, str]:
    """The column of each of ``FIELDS``; where a file names the column of answers, only that one holds any."""
    names = {field: columns.get(field, field) for field in FIELDS}
    for given, left in (("answer", "answers"), ("answers", "answer")):
        if given in columns:
            del names[left]
    return names


def sample_of(
    row: Mapping[str, Any], columns: Mapping[str, str], question: str, source: Path, number: str, where: str
) -> Sample:
    """The sample in one row.

    Args:
        row: column -> value as JSON has them; image paths are relative to the set.
        columns: as in :class:`objectives.task.Task`.
        question: the question of every row; empty where rows have their own.
        source: the set's file or folder.
        number: the id of a row that has none.
        where: the set and line or row, for messages.

    Raises:
        BadInput: a column is missing (naming the nearest), or what it holds is empty or of the wrong kind.
    """
    _refuse_half_characters(row, where)
    names = column_names(columns)
    text = {names["id"]: number, **row}
    if question:
        text[names["question"]] = question
    for field in ("id", "image", "question"):
        value = text.get(names[field])
        if names[field] not in text:
            raise BadInput(f"{where}: the field {field!r} is missing; {_nearest(names[field], row)}.")
        if not isinstance(value, str) or not value.strip():
            raise BadInput(f"{where}: the field {names[field]!r} is missing, empty or no text.")
    return Sample(
        id=text[names["id"]],
        image=(source if source.is_dir() else source.parent) / text[names["image"]],
        question=text[names["question"]],
        answers=_answers(row, names, where),
        fields={name: _as_text(value, f"{where}: {name}") for name, value in row.items() if name not in names.values()},
    )


def _answers(row: Mapping[str, Any], names: Mapping[str, str], where: str) -> tuple[str, ...]:
    given = [field for field in ("answer", "answers") if names.get(field) in row]
    wanted = [names[field] for field in ("answer", "answers") if field in names]
    if len(given) != 1:
        near = "" if given else f" ({_nearest(wanted[0], row)})"
        forms = {"answer": "a text", "answers": "a list of texts"}
        either = " or ".join(f"{names[field]!r}, {forms[field]}" for field in forms if field in names)
        raise BadInput(f"{where}: give {'either ' if len(wanted) > 1 else ''}{either}{near}.")
    value = row[names[given[0]]]
    answers = [value] if given == ["answer"] else value
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise BadInput(f"{where}: an answer is a text that is not empty; numbers go in quotes.")
    return tuple(answers)


def _nearest(name: str, columns: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    if near:
        return f"did you mean {near[0]}? (rename it, or name it under `columns` in a task file)"
    return f"there are {', '.join(columns) or 'none'} (rename it, or name it under `columns` in a task file)"


def _refuse_half_characters(row: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: half a character (a lone surrogate) is no text; write it whole.") from None
    except RecursionError:
        raise BadInput(f"{where}: the row is nested too deep; flatten it.") from None


def _as_text(value: Any, where: str) -> str:
    try:
        return value if isinstance(value, str) else canonical_json(value)
    except ValueError:
        raise BadInput(f"{where}: NaN and infinities are no values.") from None
    except RecursionError:
        raise BadInput(f"{where}: the value is nested too deep; flatten it.") from None
