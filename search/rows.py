"""A user's own rows, read from one file and dealt out to the four splits so that no image is in two of them."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaces.canonical import file_digest
from spaces.errors import BadInput
from spaces.images import read_image

SHARES = {"train": 0.4, "calibration": 0.1, "search": 0.3, "holdout": 0.2}
"""What part of the rows each split gets, as near as whole images allow."""

_MOST_VALUES = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its fields as they are to be written, and its image with the digest of its bytes."""

    fields: Mapping[str, Any]
    image: Path
    digest: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL or CSV file; a row without an id is called by its line. Every image is decoded once.

    Raises:
        BadInput: one sentence that names file, line and field.
    """
    reader = {".jsonl": _json_lines, ".csv": _csv_lines}.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path}: rows are read from .jsonl (one JSON object a line) or .csv (with a head line).")
    digests: dict[Path, str] = {}
    rows, ids = [], Counter[str]()
    try:
        for line, given in reader(path):
            where = f"{path}, line {line}"
            fields = {"id": f"line-{line}", **{name: value for name, value in given.items() if value is not None}}
            _check(fields, where)
            ids[fields["id"]] += 1
            if ids[fields["id"]] > 1:
                raise BadInput(f"{where}: the id {fields['id']!r} stands there twice; make it unique.")
            image = path.parent / fields["image"]
            if image not in digests:
                try:
                    read_image(image)
                except BadInput as error:
                    raise BadInput(f"{where}: {error}") from None
                digests[image] = file_digest(image)
            rows.append(Row(fields=fields, image=image, digest=digests[image]))
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file of rows.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as rows ({error}).") from None
    if len(set(digests.values())) < len(SHARES):
        raise BadInput(f"{path}: {len(SHARES)} splits need rows about at least {len(SHARES)} different images.")
    return rows


def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by split, in their own order. What goes where depends on the images' bytes alone, not on any order.

    Images are taken in the order of their digests; each goes, with all its rows, to the split that is the furthest from
    its share.
    """
    by_image: dict[str, int] = Counter(row.digest for row in rows)
    place: dict[str, str] = {}
    held = dict.fromkeys(SHARES, 0)
    for digest in sorted(by_image):
        name = min(SHARES, key=lambda name: held[name] / SHARES[name])
        place[digest] = name
        held[name] += by_image[digest]
    return {name: [row for row in rows if place[row.digest] == name] for name in SHARES}


def slice_fields(rows: Sequence[Row]) -> list[str]:
    """Fields that every row has, with two to twelve different values: worth an accuracy for each value."""
    values: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for name, value in row.fields.items():
            if name not in ("id", "image", "question", "answer", "answers") and isinstance(value, str):
                values[name][value] += 1
    return [
        name for name, found in values.items() if 2 <= len(found) <= _MOST_VALUES and sum(found.values()) == len(rows)
    ]


def answers_of(row: Row) -> list[str]:
    """The row's reference answers."""
    return [row.fields["answer"]] if "answer" in row.fields else list(row.fields["answers"])


def _check(fields: Mapping[str, Any], where: str) -> None:
    for name in ("id", "image", "question"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise BadInput(f"{where}: the field {name!r} is missing, empty or no text.")
    if ("answer" in fields) == ("answers" in fields):
        raise BadInput(f"{where}: give either 'answer', a text, or 'answers', a list of texts.")
    answers = [fields["answer"]] if "answer" in fields else fields["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise BadInput(f"{where}: an answer is a text that is not empty; numbers go in quotes.")


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as stream:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                try:
                    row = json.loads(text)
                    json.dumps(row, ensure_ascii=False).encode()
                except (ValueError, RecursionError):
                    raise BadInput(f"{path}, line {line}: this is not JSON; write one object a line.") from None
                if not isinstance(row, dict):
                    raise BadInput(f"{path}, line {line}: a JSON object is expected, with image, question and answer.")
                yield line, row


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            if None in row:
                raise BadInput(f"{path}, line {reader.line_num}: there are more values than names in the head line.")
            yield reader.line_num, {name: value for name, value in row.items() if value}
