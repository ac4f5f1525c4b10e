"""A user's own rows, read from one set and dealt out to the four splits so that no image is in two of them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.rows import FIELDS, sample_of
from objectives.sets import rows_of
from objectives.task_file import SPLITS
from spaces.canonical import file_digest
from spaces.errors import BadInput
from spaces.images import read_image

SHARES = dict(zip(SPLITS, (0.4, 0.1, 0.3, 0.2), strict=True))
"""What part of the rows each split gets, as near as whole images allow."""

_MOST_VALUES = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its fields as they are to be written, and its image with the digest of its bytes."""

    fields: Mapping[str, Any]
    image: Path
    digest: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a set that a task could name; a row without an id is called by its place. Images are decoded once.

    Raises:
        BadInput: one sentence that names the set, the line or row, and the field.
    """
    digests: dict[Path, str] = {}
    rows, ids = [], set[str]()
    for place, given in rows_of(path, {}):
        where = f"{path}, {place}"
        sample = sample_of(given, {}, "", path, place.replace(" ", "-"), where)
        if sample.id in ids:
            raise BadInput(f"{where}: the id {sample.id!r} stands there twice; make it unique.")
        ids.add(sample.id)
        if sample.image not in digests:
            try:
                read_image(sample.image)
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
            digests[sample.image] = file_digest(sample.image)
        rows.append(Row(fields={"id": sample.id, **given}, image=sample.image, digest=digests[sample.image]))
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
            if name not in FIELDS and isinstance(value, str) and value:
                values[name][value] += 1
    return [
        name for name, found in values.items() if 2 <= len(found) <= _MOST_VALUES and sum(found.values()) == len(rows)
    ]


def answers_of(row: Row) -> list[str]:
    """The row's reference answers."""
    return [row.fields["answer"]] if "answer" in row.fields else list(row.fields["answers"])
