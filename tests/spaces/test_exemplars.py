import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.errors import BadInput
from spaces.exemplars import Pool, Row, embedding, pixel_digest, read_pool, write_pool
from spaces.fitting import Fit, fitted, settled
from spaces.images import read_image

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(4)]


def row(number: int, group: str = "g") -> Row:
    digest = pixel_digest(IMAGES[number % len(IMAGES)])
    name = f"{digest[:32]}.png"
    return Row(image=name, question=f"q{number}", answer="a", group=group, fields={"kind": "ä"}, pixels=digest)


ROWS = [row(0), row(1, "h"), row(2), row(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pool(tmp_path / "pool", ROWS, IMAGES, np.eye(4, dtype=np.float32))
    return tmp_path / "pool"


def test_what_was_written_is_what_is_read(folder: Path) -> None:
    pool = read_pool(folder, nearest=True)
    assert list(pool.rows) == ROWS
    assert pool.groups == ("g", "h")
    assert pool.vectors is not None
    np.testing.assert_array_equal(pool.vectors, np.eye(4))
    for one, image in zip(pool.rows, IMAGES, strict=True):
        np.testing.assert_array_equal(read_image(folder / one.image), image)
    assert read_pool(folder, nearest=False).vectors is None
    assert [one.question for one in pool.first("g", 2)] == ["q0", "q2"]


def test_rows_over_one_image_share_its_file(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", [row(0), row(4)], [IMAGES[0], IMAGES[0]], None)
    assert len(list((tmp_path / "pool").glob("*.png"))) == 1


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 8), size=st.integers(1, 20))
def test_the_nearest_are_those_of_a_brute_force(data: st.DataObject, count: int, size: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    tokens = rng.standard_normal((size, 5, 7)).astype(np.float32)
    asked = rng.standard_normal((3, 7)).astype(np.float32)
    groups = rng.integers(0, 2, size)
    same = int(rng.integers(0, size))
    rows = tuple(
        Row(image="x.png", question=str(at), answer="", group=str(groups[at]), fields={}, pixels=str(at))
        for at in range(size)
    )
    pool = Pool(folder=Path(), rows=rows, vectors=np.stack([embedding(one) for one in tokens]))
    found = [int(one.question) for one in pool.nearest("1", count, asked, str(same))]

    def cosine(at: int) -> float:
        left, right = tokens[at].mean(0).astype(np.float64), asked.mean(0).astype(np.float64)
        return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))

    eligible = [at for at in range(size) if groups[at] == 1 and at != same]
    assert found == sorted(eligible, key=cosine)[-count:]


def test_vectors_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"embeddings\.safetensors is not of this model \(9 wide\)"):
        read_pool(folder, nearest=True).nearest("g", 1, np.ones((2, 9), np.float32), "")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads((folder / "exemplars.json").read_text())
    change(body)
    (folder / "exemplars.json").write_text(json.dumps(body))


def vectors(folder: Path, values: Any) -> None:
    from safetensors.numpy import save_file

    save_file({"embeddings": np.asarray(values)}, folder / "embeddings.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: (f / "exemplars.json").unlink(), "no list of exemplars"),
    "no JSON": (lambda f: (f / "exemplars.json").write_text("{"), "no list of exemplars"),
    "deep": (lambda f: (f / "exemplars.json").write_text("[" * 100_000), "no list of exemplars"),
    "a list": (lambda f: (f / "exemplars.json").write_text("[]"), "no list of exemplars"),
    "another schema": (lambda f: edit(f, lambda b: b.update(schema="x")), "has no exemplars"),
    "no rows": (lambda f: edit(f, lambda b: b.update(rows=[])), "has no exemplars"),
    "a field more": (lambda f: edit(f, lambda b: b["rows"][0].update(more=1)), "no list of exemplars"),
    "no text": (lambda f: edit(f, lambda b: b["rows"][0].update(answer=3)), "malformed"),
    "fields no texts": (lambda f: edit(f, lambda b: b["rows"][0].update(fields={"a": 1})), "malformed"),
    "another folder": (lambda f: edit(f, lambda b: b["rows"][0].update(image="../x.png")), "malformed"),
    "another kind": (lambda f: edit(f, lambda b: b["rows"][0].update(image="x.jpg")), "malformed"),
    "image gone": (lambda f: (f / ROWS[0].image).unlink(), "is missing"),
    "no vectors": (lambda f: (f / "embeddings.safetensors").unlink(), "holds no embeddings"),
    "vectors damaged": (lambda f: (f / "embeddings.safetensors").write_bytes(b"x" * 50), "holds no embeddings"),
    "too few": (lambda f: vectors(f, np.eye(3, dtype=np.float32)), "one vector for each"),
    "doubles": (lambda f: vectors(f, np.eye(4)), "one vector for each"),
    "not finite": (lambda f: vectors(f, np.full((4, 4), np.nan, np.float32)), "one vector for each"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_pool_is_refused_in_one_sentence(folder: Path, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(folder)
    with pytest.raises(BadInput, match=words) as refused:
        read_pool(folder, nearest=True)
    assert "\n" not in str(refused.value)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    edge=st.integers(4, 30),
    crop=st.integers(4, 30),
    whole=st.booleans(),
)
def test_a_settled_image_is_fitted_to_the_same_pixels(
    height: int, width: int, edge: int, crop: int, whole: bool
) -> None:
    fit = Fit(
        shortest_edge=0 if whole else edge,
        resized=(edge, crop),
        crop=None if whole else (min(crop, edge), min(crop, edge)),
        resample=3,
        scale=1 / 255,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    image = np.random.default_rng(height * 61 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    small = settled(image, fit)
    np.testing.assert_array_equal(fitted(small, fit), fitted(image, fit))
    assert small.size <= fitted(image, Fit(**{**vars(fit), "crop": None})).size
