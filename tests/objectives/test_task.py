import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objectives.metrics import METRICS
from objectives.task import load_task, read_split, read_splits, split_digest
from objectives.task_file import task_schema
from spaces.errors import BadInput
from spaces.sample import Sample

TASK = """\
schema: vlmfront.task/1
name: demo
metric: exact
slices: [kind]
splits: {search: data/search.jsonl, holdout: data/holdout.jsonl}
max_new_tokens: 8
hints: {field: kind, values: {light: "answer red or green"}}
"""


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "image": f"{number}.png",
        "question": "which colour ?",
        "answer": "red",
        "kind": "light",
        **changed,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(data / f"{number}.png")
    (tmp_path / "task.yaml").write_text(TASK)
    write(tmp_path, "search", [row(0), row(1, count=3, answers=["green", "lime"], answer=None)])
    write(tmp_path, "holdout", [row(2)])
    return tmp_path


def write(folder: Path, split: str, rows: list[Any]) -> Path:
    for item in rows:
        if isinstance(item, dict) and item.get("answer", "") is None:
            del item["answer"]
    path = folder / "data" / f"{split}.jsonl"
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in rows))
    return path


def refusal(folder: Path, split: str = "search") -> str:
    with pytest.raises(BadInput) as caught:
        read_split(load_task(folder / "task.yaml"), split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_task_and_rows(folder: Path) -> None:
    task = load_task(folder / "task.yaml")
    assert (task.name, task.metric.spec, task.slices, task.max_new_tokens) == ("demo", "exact", ("kind",), 8)
    assert (task.hint_field, task.hints) == ("kind", {"light": "answer red or green"})
    first, second = read_split(task, "search")
    assert first.image == folder / "data" / "0.png"
    assert first.fields == {"kind": "light"}
    assert second.answers == ("green", "lime")
    assert second.fields == {"kind": "light", "count": "3"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("metric: exact", "metric: bleu", ["metric", "'bleu'", "exact"]),
        ("slices:", "slcies:", ["'slcies'", "did you mean slices"]),
        ("field: kind", "feild: kind", ["hints", "'feild'", "did you mean field"]),
        ("max_new_tokens: 8", "max_new_tokens: 0", ["max_new_tokens"]),
        ("max_new_tokens: 8", 'max_new_tokens: "8"', ["max_new_tokens"]),
        ("task/1", "task/9", ["schema"]),
        ("name: demo\n", "", ["name"]),
        ("slices: [kind]", "slices: [kind", ["line"]),
    ],
)
def test_refuses_a_bad_task_file(folder: Path, old: str, new: str, words: list[str]) -> None:
    path = folder / "task.yaml"
    path.write_text(TASK.replace(old, new))
    with pytest.raises(BadInput) as caught:
        load_task(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(0), "{oops"], ["line 2", "JSON"]),
        ([row(0), "[1]"], ["line 2", "object"]),
        ([row(0), "[" * 100_000], ["line 2", "JSON"]),
        ([row(0, question="")], ["line 1", "question"]),
        ([{"id": "a", "image": "0.png", "question": "?"}], ["line 1", "answer"]),
        ([row(0, answer=3)], ["line 1", "quotes"]),
        ([row(0, answers=["x"])], ["line 1", "either"]),
        ([row(0, answer=None, answers=[])], ["line 1", "answer"]),
        ([row(0), row(1), row(1, id="s0")], ["line 3", "'s0'", "line 1"]),
        ([row(0), row(7)], ["line 2", "7.png", "missing"]),
        ([row(0, id=5)], ["line 1", "'id'"]),
        ([row(0, weight=float("nan"))], ["line 1", "weight"]),
        ([row(0, image="x\x00y.png")], ["line 1"]),
        ([], ["empty"]),
        (["", "  "], ["empty"]),
    ],
)
def test_refuses_bad_rows(folder: Path, rows: list[Any], words: list[str]) -> None:
    path = write(folder, "search", rows)
    message = refusal(folder)
    for word in [str(path), *words]:
        assert word in message


def test_refuses_missing_set_and_unknown_split(folder: Path) -> None:
    (folder / "data" / "search.jsonl").unlink()
    assert "search.jsonl" in refusal(folder)
    assert "did you mean holdout" in refusal(folder, "holdut")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(path: Path) -> None:
    path.write_text("no image")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _bomb(path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(path)


def _pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.")


@pytest.mark.parametrize("spoil", [_truncate, _text, _folder, _bomb, _pickle])
def test_refuses_images_that_do_not_decode(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder / "data" / "1.png")
    message = refusal(folder)
    assert "line 2" in message
    assert "1.png" in message


def test_a_truncated_jpeg_is_refused(folder: Path) -> None:
    path = folder / "data" / "1.png"
    Image.open(folder / "data" / "0.png").resize((64, 64)).save(path, format="JPEG")
    assert len(read_split(load_task(folder / "task.yaml"), "search")) == 2
    _truncate(path)
    assert "line 2" in refusal(folder)


def test_splits_must_not_share_ids(folder: Path) -> None:
    task = load_task(folder / "task.yaml")
    assert set(read_splits(task, ["search", "holdout"])) == {"search", "holdout"}
    write(folder, "holdout", [row(2), row(2, id="s1")])
    with pytest.raises(BadInput, match="'s1' is also in the search split"):
        read_splits(task, ["search", "holdout"])


def test_splits_must_not_share_rows_under_other_ids(folder: Path) -> None:
    task = load_task(folder / "task.yaml")
    first = read_split(task, "search")[0]
    shutil.copy(first.image, folder / "data" / "copy.png")
    copy = row(2) | {"id": "other", "image": "copy.png"}
    write(folder, "holdout", [copy | {"question": first.question}])
    with pytest.raises(BadInput) as refused:
        read_splits(task, ["search", "holdout"])
    assert "\n" not in str(refused.value)
    for word in ("holdout.jsonl", "'other'", "search.jsonl", repr(first.id)):
        assert word in str(refused.value)
    write(folder, "holdout", [copy | {"question": "another one ?"}])
    read_splits(task, ["search", "holdout"])


def test_digest_is_of_content_not_of_place(folder: Path, tmp_path: Path) -> None:
    def digest(at: Path) -> str:
        return split_digest(read_split(load_task(at / "task.yaml"), "search"))

    before = digest(folder)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("moved"))
    assert digest(moved) == before
    Image.new("RGB", (16, 16), "red").save(moved / "data" / "0.png")
    assert digest(moved) != before
    write(folder, "search", [row(0, question="what colour ?"), row(1)])
    assert digest(folder) != before


def test_512_rows_are_checked_fast(folder: Path) -> None:
    """Half a second of work on one core; the bound leaves room for a busy machine."""
    rng = np.random.default_rng(1)
    for number in range(512):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "data" / f"{number}.png")
    write(folder, "search", [row(number) for number in range(512)])
    begin = time.process_time()
    assert len(read_split(load_task(folder / "task.yaml"), "search")) == 512
    assert time.process_time() - begin < 3


COSTS = "costs: {classes: [ok, defect], matrix: [[0, 1], [10, 0]]}\n"


def test_what_the_file_leaves_out_has_its_defaults(folder: Path) -> None:
    path = folder / "task.yaml"
    task = load_task(path)
    assert (task.unknown, task.costs, task.columns, task.question) == (("unknown",), None, {}, "")
    assert (task.exemplar_split, task.exemplar_field) == ("train", "kind")
    path.write_text(TASK.replace("hints: {field: kind, values: {light:", "# {").replace("# {", "#"))
    assert load_task(path).exemplar_field == ""
    path.write_text(TASK + COSTS)
    costs = load_task(path).costs
    assert costs is not None
    assert (costs.other, costs.unknown, costs.where) == ((1, 10), (1, 10), {})
    path.write_text(TASK + COSTS.replace("]]}", "]], other: 4, unknown: 2, where: {kind: [light]}}"))
    costs = load_task(path).costs
    assert costs is not None
    assert (costs.other, costs.unknown, costs.where) == ((4, 4), (2, 2), {"kind": ("light",)})
    path.write_text(TASK + "exemplars: {split: holdout2, field: shape}\n".replace("holdout2", "extra"))
    with pytest.raises(BadInput, match="'extra' is none of the splits"):
        load_task(path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("columns: {imgae: x}", ["columns", "'imgae'", "did you mean image"]),
        ("columns: {answer: x, answers: y}", ["columns", "either"]),
        ("columns: {question: x}\nquestion: y", ["question", "one of the two"]),
        ("costs: {classes: [a, b], matrix: [[0, 1]]}", ["costs", "2 rows", "2 costs"]),
        ("costs: {classes: [a, A.], matrix: [[0, 1], [1, 0]]}", ["costs", "same answer"]),
        ("costs: {classes: [a, b], matrix: [[0, -1], [1, 0]]}", ["costs.matrix.0.1", "greater than or equal to 0"]),
        ("costs: {classes: [a, b], matrix: [[0, .inf], [1, 0]]}", ["costs.matrix.0.1"]),
        ("costs: {classes: [yes, no], matrix: [[0, 1], [1, 0]]}", ["costs.classes.0", "quotes"]),
        ("costs: {classes: [a, b], matirx: [[0, 1], [1, 0]]}", ["costs", "'matirx'", "did you mean matrix"]),
        ("exemplars: {split: holdout}", ["exemplars.split", "holdout", "train"]),
        ("exemplars: {field: answer}", ["exemplars.field", "give it away"]),
        ("unknown: unknown", ["unknown", "list"]),
    ],
)
def test_refuses_a_bad_part_of_a_task(folder: Path, more: str, words: list[str]) -> None:
    path = folder / "task.yaml"
    path.write_text(f"{TASK}{more}\n")
    with pytest.raises(BadInput) as caught:
        load_task(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("{name: bleu}", ["'bleu'", "anls", "vqa_soft"]),
        ("{name: exact, tolerance: 1}", ["exact has no tolerance"]),
        ("{name: numeric, tolerance: -1}", ["metric.tolerance", "greater than or equal to 0"]),
        ("{name: numeric, tolerence: 1}", ["'tolerence'", "did you mean tolerance"]),
        ("{tolerance: 1}", ["metric.name", "required"]),
        ("[exact]", ["metric", "dictionary"]),
    ],
)
def test_refuses_a_bad_metric(folder: Path, metric: str, words: list[str]) -> None:
    path = folder / "task.yaml"
    path.write_text(TASK.replace("metric: exact", f"metric: {metric}"))
    with pytest.raises(BadInput) as caught:
        load_task(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_metric_with_settings_scores(folder: Path) -> None:
    path = folder / "task.yaml"
    path.write_text(TASK.replace("metric: exact", "metric: {name: numeric, relative: 0.1}"))
    task = load_task(path)
    assert task.metric.spec == {"name": "numeric", "relative": 0.1}
    sample = Sample(id="i", image=Path("x"), question="?", answers=("50",))
    assert (task.score("54 V", sample), task.score("56 V", sample)) == (1.0, 0.0)


def test_the_schema_is_of_what_is_read() -> None:
    schema = task_schema()
    assert schema["$id"] == "vlmfront.task/1"
    assert set(schema["required"]) == {"schema", "name", "metric", "splits"}
    assert {"columns", "question", "unknown", "costs", "exemplars"} < set(schema["properties"])
    assert schema["additionalProperties"] is False
    forms = schema["properties"]["metric"]["anyOf"]
    assert set(forms[0]["enum"]) == set(METRICS)
    json.dumps(schema)
