"""Readers of evaluation sets: JSONL, CSV, and the saved datasets of Hugging Face. Each gives rows with their place."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from objectives.dataset_folder import dataset_rows
from objectives.rows import column_names
from spaces.errors import BadInput

Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]
DELIMITERS = ",;\t"


def rows_of(path: Path, columns: Mapping[str, str]) -> Rows:
    """The rows of a set with their places in it (``line 3``), by what the path is.

    A folder is a saved dataset, a file ``*.csv`` is CSV, any other file has one JSON object a line.

    Raises:
        BadInput: naming the set, and the line or row that cannot be read.
    """
    try:
        folder = path.is_dir()
    except OSError as error:
        raise BadInput(f"{path}: the evaluation set cannot be read ({error.strerror}).") from None
    if folder:
        return dataset_rows(path, columns)
    if path.suffix.lower() == ".csv":
        return csv_rows(path, columns)
    return jsonl_rows(path)


def jsonl_rows(path: Path) -> Rows:
    """The rows of a file with one JSON object a line; empty lines are left out."""
    for line, text in enumerate(io.BytesIO(_content(path)), start=1):
        if text.strip():
            yield f"line {line}", _object(text, f"{path}, line {line}")


def csv_rows(path: Path, columns: Mapping[str, str]) -> Rows:
    """The rows of a CSV file (RFC 4180) in UTF-8, by the names in its first line.

    Commas, semicolons or tabs stand between cells: the one with which the first line names the image column. A column
    of ``answers`` holds JSON lists. Empty answers, and columns without a name, are left out.
    """
    text = _decoded(path)
    names = column_names(columns)
    mark = next((mark for mark in DELIMITERS if names["image"] in _header(text, mark)), DELIMITERS[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    header: list[str] = []
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadInput(f"{path}, {where}: this is not CSV ({error}); close its quotes or shorten it.") from None
        if not any(cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            _refuse_twice(header, f"{path}, {where}")
            continue
        if len(cells) != len(header):
            raise BadInput(
                f"{path}, {where}: {len(cells)} cells stand under {len(header)} columns; "
                "put quotes around cells that hold a delimiter."
            )
        row: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if name}
        for field in ("answer", "answers"):
            if row.get(names.get(field, "")) == "":
                del row[names[field]]
        if (name := names.get("answers")) in row:
            row[str(name)] = _listed(row[str(name)], f"{path}, {where}: {name}")
        yield where, row


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():  # a device such as /dev/zero has no end
            raise BadInput(f"{path}: there is no such evaluation set; correct the path.")
        return path.read_bytes()
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


def _decoded(path: Path) -> str:
    content = _content(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}, line {line}: this is not UTF-8; save the file in that encoding.") from None


def _header(text: str, mark: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])]
    except csv.Error:
        return []


def _refuse_twice(header: list[str], where: str) -> None:
    for place, name in enumerate(header):
        if name and name in header[:place]:
            raise BadInput(f"{where}: two columns are called {name!r}; rename one.")


def _listed(cell: str, where: str) -> list[Any]:
    try:
        answers = json.loads(cell, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        answers = None
    if not isinstance(answers, list):
        raise BadInput(
            f'{where}: a JSON list of texts is expected, as ["red", "crimson"]; a single text goes in answer.'
        )
    return answers
