import hashlib
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objectives.dataset_folder import image_cache
from objectives.task import load_task, read_split, read_splits
from spaces.errors import BadInput

TASK = """\
schema: vlmfront.task/1
name: digits
metric: exact
question: which digit ?
columns: {image: picture, answer: label}
splits: {search: data, holdout: other}
slices: [camera]
"""


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path


def test_without_the_library_one_sentence_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (folder / "data").mkdir()
    with pytest.raises(BadInput, match=r"data: .*pip install 'vlmfront\[hf\]'"):
        read_split(load_task(folder / "task.yaml"), "search")


class TestWithTheLibrary:
    @pytest.fixture
    def datasets(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        found = pytest.importorskip("datasets")
        found.disable_progress_bars()
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked for"))
        return found

    @pytest.fixture
    def saved(self, datasets: Any, folder: Path) -> Path:
        features = datasets.Features(
            {
                "picture": datasets.Image(),
                "label": datasets.ClassLabel(names=["zero", "one"]),
                "camera": datasets.Value("string"),
                "weight": datasets.Value("float64"),
                "crops": datasets.List(datasets.Image()),
            }
        )
        columns = {
            "picture": [{"bytes": png(seed), "path": None} for seed in (0, 1, 2)],
            "label": [0, 1, 1],
            "camera": ["left", "right", None],
            "weight": [1.5, float("nan"), 2.0],
            "crops": [[{"bytes": b"no image", "path": None}]] * 3,
        }
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "data")
        return folder

    def test_labels_are_names_and_images_are_laid_out_once(self, saved: Path) -> None:
        task = load_task(saved / "task.yaml")
        first, second, third = read_split(task, "search")
        assert [sample.answers for sample in (first, second, third)] == [("zero",), ("one",), ("one",)]
        assert (first.id, first.question) == ("search-1", "which digit ?")
        assert (first.value("camera"), first.value("weight")) == ("left", "1.5")
        assert (third.value("camera"), second.value("weight")) == ("", "")
        assert first.image.read_bytes() == png(0)
        assert first.image.name == hashlib.sha256(png(0)).hexdigest()
        assert first.image.is_relative_to(image_cache())
        laid = sorted(path for path in image_cache().rglob("*") if path.is_file())
        assert len(laid) == 3
        second.image.write_bytes(b"damaged")
        before = first.image.stat().st_mtime_ns
        assert read_split(task, "search")[1].image.read_bytes() == png(1)
        assert first.image.stat().st_mtime_ns == before
        assert sorted(path for path in image_cache().rglob("*") if path.is_file()) == laid

    def test_a_cache_that_cannot_be_written_is_refused(self, saved: Path) -> None:
        (saved / "cache").write_text("in the way")
        with pytest.raises(BadInput, match=r"data: its images cannot be laid out in .*XDG_CACHE_HOME"):
            read_split(load_task(saved / "task.yaml"), "search")

    def test_paths_are_relative_to_the_folder(self, datasets: Any, folder: Path) -> None:
        rows = {"picture": ["a.png"], "label": [7], "camera": ["left"], "id": [5], "tags": [["x", "y"]]}
        datasets.Dataset.from_dict(rows).save_to_disk(folder / "data")
        (folder / "data" / "a.png").write_bytes(png(0))
        (sample,) = read_split(load_task(folder / "task.yaml"), "search")
        assert sample.image == folder / "data" / "a.png"
        assert (sample.id, sample.answers, sample.value("tags")) == ("5", ("7",), '["x","y"]')

    def test_the_same_picture_in_two_splits_is_refused(self, datasets: Any, saved: Path) -> None:
        datasets.load_from_disk(str(saved / "data")).select([2]).save_to_disk(saved / "other")
        with pytest.raises(BadInput, match=r"'holdout-1'.* also in the search split"):
            read_splits(load_task(saved / "task.yaml"), ["search", "holdout"])

    def test_what_is_no_dataset_is_refused(self, datasets: Any, saved: Path) -> None:
        task = load_task(saved / "task.yaml")
        (saved / "other").mkdir()
        with pytest.raises(BadInput, match=r"other: .*save_to_disk"):
            read_split(task, "holdout")
        datasets.DatasetDict({"train": datasets.load_from_disk(str(saved / "data"))}).save_to_disk(saved / "other")
        with pytest.raises(BadInput, match=r"several splits.*train"):
            read_split(task, "holdout")

    def test_damage_anywhere_is_refused(self, datasets: Any, saved: Path) -> None:
        task = load_task(saved / "task.yaml")
        (arrow,) = (saved / "data").glob("*.arrow")
        whole = arrow.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(60):
            spoiled = np.frombuffer(whole, np.uint8).copy()
            spoiled[rng.integers(0, spoiled.size, 20)] = rng.integers(0, 256, 20)
            cut = rng.integers(0, spoiled.size) if rng.random() < 0.3 else spoiled.size
            arrow.unlink()
            arrow.write_bytes(spoiled[:cut].tobytes())
            with suppress(BadInput):
                read_split(task, "search")
        arrow.write_bytes(whole[:500])
        with pytest.raises(BadInput, match=r"data: the saved dataset is damaged"):
            read_split(task, "search")

    def test_an_image_that_is_none_is_refused_with_its_row(self, datasets: Any, folder: Path) -> None:
        rows = {"picture": [{"bytes": b"\x80\x04.", "path": None}], "label": ["x"], "camera": ["left"]}
        features = datasets.Features(
            {"picture": datasets.Image(), "label": datasets.Value("string"), "camera": datasets.Value("string")}
        )
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "data")
        with pytest.raises(BadInput, match=r"data, row 1: .*cannot be read as an image"):
            read_split(load_task(folder / "task.yaml"), "search")
