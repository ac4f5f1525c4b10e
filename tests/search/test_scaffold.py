"""`init` on nothing, and on a model and rows up to the start of a search."""

import csv
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.task import load_task, read_splits
from search.cli import main
from search.config import load_config
from search.rows import SHARES, Row, slice_fields, split
from search.scaffold import scaffold
from search.session import prepare
from spaces.errors import BadInput
from spaces.plugins import available
from spaces.reader import load_space
from spaces.space import grid
from tests.project import write_rows

Project = Callable[..., Path]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vlmfront", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write_rows(tmp_path, "own", 40, seed=1)
    return tmp_path / "own.jsonl"


def test_without_anything_the_files_are_valid_but_for_their_paths(tmp_path: Path) -> None:
    done = scaffold(tmp_path / "new", (), None)
    assert len(done.todo) == 2
    assert [path.name for path in done.files] == ["task.yaml", "space.yaml", "search.yaml"]
    config = load_config(tmp_path / "new" / "search.yaml")
    assert (config.task.name, config.name) == ("task.yaml", "new")
    space = load_space(config.space, available())
    assert space.count is not None
    for axis in available():
        assert all(knob in config.space.read_text() for knob in axis.domains), axis.name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("mine")
    with pytest.raises(BadInput, match=r"space\.yaml: this file is there already"):
        scaffold(tmp_path, (), None)
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]
    assert (tmp_path / "space.yaml").read_text() == "mine"


def test_with_a_model_and_rows_a_search_can_begin(
    tiny_checkpoint: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "parts"
    assert command(monkeypatch, "init", folder, "--model", tiny_checkpoint, "--rows", rows, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["todo"] == []
    assert sum(made["splits"].values()) == 40
    assert command(monkeypatch, "space", "check", folder / "space.yaml", "--task", folder / "task.yaml") == 0
    monkeypatch.chdir(tmp_path)
    prepared = prepare(folder / "search.yaml", run=None, budget=None, resume=False)
    prepared.close()
    assert {name: len(split) for name, split in prepared.splits.items()} == made["splits"]
    groups = prepared.space.knob("quantization.group_size")
    assert groups is not None
    assert grid(groups) == (32, 64)
    assert command(monkeypatch, "init", folder, "--model", tiny_checkpoint) == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_of_csv_are_read_and_keep_their_fields(
    delimiter: str, tiny_checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    given = [json.loads(line) for line in rows.read_text().splitlines()]
    table = tmp_path / "own.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(
            stream, ["image", "question", "answer", "kind"], extrasaction="ignore", delimiter=delimiter
        )
        writer.writeheader()
        for number, row in enumerate(given):
            writer.writerow(row | {"kind": "even" if number % 2 == 0 else "odd", "question": 'what, "is" this ?'})
    folder = tmp_path / "from_csv"
    scaffold(folder, (tiny_checkpoint,), table)
    written = [
        json.loads(line) for name in SHARES for line in (folder / "data" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert sorted(row["id"] for row in written) == sorted(f"line-{number + 2}" for number in range(40))
    assert {row["question"] for row in written} == {'what, "is" this ?'}
    assert yaml.safe_load((folder / "task.yaml").read_text())["slices"] == ["kind"]


def test_rows_of_a_saved_dataset_keep_their_images(
    tiny_checkpoint: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = [json.loads(line) for line in rows.read_text().splitlines()]
    columns = {name: [row[name] for row in given] for name in ("question", "answer")}
    images = {"image": [{"bytes": (tmp_path / row["image"]).read_bytes(), "path": None} for row in given]}
    kinds = {name: datasets.Value("string") for name in columns} | {"image": datasets.Image()}
    datasets.Dataset.from_dict(columns | images, features=datasets.Features(kinds)).save_to_disk(tmp_path / "saved")
    done = scaffold(tmp_path / "new", (tiny_checkpoint,), tmp_path / "saved")
    assert len(done.files) == 7
    shutil.rmtree(tmp_path / "cache")
    splits = read_splits(load_task(tmp_path / "new" / "task.yaml"), tuple(SHARES))
    found = {(sample.image.read_bytes(), sample.answers) for split in splits.values() for sample in split}
    assert found == {((tmp_path / row["image"]).read_bytes(), (row["answer"],)) for row in given}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["line 1", "not JSON"]),
        ("[1]", ["line 1", "object"]),
        ('{"image": "x.png", "question": "q"}', ["line 1", "'answer'"]),
        ('{"image": "x.png", "question": "q", "answer": 3}', ["line 1", "quotes"]),
        ('{"image": "nowhere.png", "question": "q", "answer": "a"}', ["line 1", "nowhere.png"]),
        ("", ["at least 4 different images"]),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(BadInput) as refusal:
        scaffold(tmp_path / "new", (), tmp_path / "rows.jsonl")
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert not (tmp_path / "new").exists()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_no_image_is_in_two_splits_and_order_changes_nothing(images: list[int], shuffler: random.Random) -> None:
    rows = [
        Row(fields={"id": str(number)}, image=Path(f"{image}.png"), digest=f"{image * 7919 % 101:03d}")
        for number, image in enumerate(images)
    ]
    dealt = split(rows)
    assert sorted(row.fields["id"] for part in dealt.values() for row in part) == sorted(map(str, range(len(rows))))
    homes = [{row.digest for row in part} for part in dealt.values()]
    assert sum(map(len, homes)) == len(set().union(*homes))
    if len(set(images)) >= len(SHARES):
        assert all(dealt.values())
    mixed = list(rows)
    shuffler.shuffle(mixed)
    again = split(mixed)
    assert {name: {row.fields["id"] for row in part} for name, part in again.items()} == {
        name: {row.fields["id"] for row in part} for name, part in dealt.items()
    }


def test_shares_are_met_as_near_as_images_allow() -> None:
    rows = [Row(fields={}, image=Path(), digest=f"{number:04d}") for number in range(1000)]
    assert {name: len(part) / 1000 for name, part in split(rows).items()} == pytest.approx(SHARES, abs=0.002)


def test_slices_are_fields_of_few_values_that_every_row_has() -> None:
    fields = [
        {"id": str(n), "few": str(n % 3), "many": str(n), "one": "x", **({"some": "y"} if n else {})} for n in range(30)
    ]
    assert slice_fields([Row(fields=one, image=Path(), digest="") for one in fields]) == ["few"]
