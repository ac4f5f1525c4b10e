"""The pool of exemplars in a bundle: rows of the training split with their images, and how the nearest are found.

The folder ``exemplars/`` holds ``exemplars.json``, one PNG for each row, and, where exemplars are picked by their
nearness, ``embeddings.safetensors`` with one unit vector a row. Runs on the host and on the device: NumPy and Pillow.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spaces.errors import BadInput
from spaces.images import Pixels

SCHEMA = "vlmfront.exemplars/1"
FOLDER = "exemplars"
INDEX = "exemplars.json"
EMBEDDINGS = "embeddings.safetensors"
PER_GROUP = 64
"""Rows of one group that a pool holds, at most."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One exemplar.

    Attributes:
        image: name of its PNG in the pool's folder.
        group: it serves questions of this group only; empty where rows are not told apart.
        fields: its other fields, as a task's row has them: they pick its hint.
        pixels: `pixel_digest` of the image as the model sees it.
    """

    image: str
    question: str
    answer: str
    group: str
    fields: Mapping[str, str]
    pixels: str


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What a bundle may show before a question; ``vectors`` (rows, width) is null where the first rows are taken."""

    folder: Path
    rows: tuple[Row, ...]
    vectors: Vectors | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have a row, in order of appearance."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def first(self, group: str, count: int) -> list[Row]:
        """The first rows of a group."""
        return [row for row in self.rows if row.group == group][:count]

    def nearest(self, group: str, count: int, tokens_VD: Vectors, pixels: str) -> list[Row]:
        """The rows of a group whose images have the greatest cosine with this one, the nearest last.

        Args:
            group: of the question.
            count: how many; fewer where the group has no more.
            tokens_VD: visual tokens of the image that is asked about.
            pixels: its digest: a row with the very same image is left out.

        Raises:
            BadInput: the pool's vectors are not of the model's width.
        """
        vector = embedding(tokens_VD)
        if self.vectors is None or self.vectors.shape[1] != len(vector):
            raise BadInput(f"{self.folder / EMBEDDINGS} is not of this model ({len(vector)} wide); export it again.")
        places = [at for at, row in enumerate(self.rows) if row.group == group and row.pixels != pixels]
        cosines = self.vectors[places] @ vector
        best = np.argsort(-cosines, kind="stable")[:count]
        return [self.rows[places[at]] for at in reversed(best.tolist())]


def embedding(tokens_VD: Vectors) -> Vectors:
    """The mean of an image's visual tokens, scaled to length 1."""
    mean = tokens_VD.astype(np.float64).mean(0)
    unit: Vectors = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return unit


def pixel_digest(image_HWC: Pixels) -> str:
    """The sha256 of an image's size and 8-bit values."""
    return hashlib.sha256(repr(image_HWC.shape).encode() + np.ascontiguousarray(image_HWC).tobytes()).hexdigest()


def write_pool(folder: Path, rows: Sequence[Row], images: Sequence[Pixels], vectors: Vectors | None) -> None:
    """Writes a pool; ``images`` are those of ``rows`` and are stored without loss."""
    from PIL import Image

    folder.mkdir()
    for row, image in zip(rows, images, strict=True):
        if not (folder / row.image).exists():
            Image.fromarray(image).save(folder / row.image, format="PNG", optimize=True)
    body = {"schema": SCHEMA, "rows": [asdict(row) for row in rows]}
    (folder / INDEX).write_text(json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    if vectors is not None:
        from safetensors.numpy import save_file

        save_file({"embeddings": vectors}, folder / EMBEDDINGS)


def read_pool(folder: Path, *, nearest: bool) -> Pool:
    """The pool in a folder, with its vectors where the nearest rows are wanted.

    Raises:
        BadInput: a file is missing or is not what `write_pool` writes.
    """
    path = folder / INDEX
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in body["rows"]) if body["schema"] == SCHEMA else ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{path} is no list of exemplars ({error!r}); export the bundle again.") from None
    if not rows or not all(map(_sound, rows)):
        raise BadInput(f"{path} has no exemplars, or one with a malformed field; export the bundle again.")
    for row in rows:
        if not (folder / row.image).is_file():
            raise BadInput(f"{folder / row.image} is missing; export the bundle again.")
    return Pool(folder=folder, rows=rows, vectors=_vectors(folder / EMBEDDINGS, len(rows)) if nearest else None)


def _sound(row: Row) -> bool:
    texts: tuple[Any, ...] = (row.image, row.question, row.answer, row.group, row.pixels)
    if not all(isinstance(text, str) for text in texts) or not isinstance(row.fields, dict):
        return False
    plain = Path(row.image).name == row.image and row.image.endswith(".png") and "\\" not in row.image
    return plain and all(isinstance(value, str) for value in row.fields.values())


def _vectors(path: Path, rows: int) -> Vectors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        vectors = load_file(path)["embeddings"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(f"{path} holds no embeddings ({error}); export the bundle again.") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows or not np.isfinite(vectors).all():
        raise BadInput(f"{path} does not hold one vector for each exemplar; export the bundle again.")
    return vectors
