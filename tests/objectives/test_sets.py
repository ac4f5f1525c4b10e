"""CSV and saved datasets give the same samples as JSONL does, and are refused as clearly."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from objectives.rows import sample_of
from objectives.sets import csv_rows, rows_of
from objectives.task import load_task, read_split, read_splits, split_digest
from spaces.errors import BadInput

HEAD = "schema: vlmfront.task/1\nname: demo\nmetric: exact\n"
ROWS = [
    {"id": "1", "image": "0.png", "question": "which , please ?", "answer": 'the "red"\none', "kind": "a"},
    {"id": "2", "image": "1.png", "question": "wie groß ?", "answer": "3", "kind": ""},
]
cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def task_file(folder: Path, more: str = "", splits: str = "{search: x.csv}") -> Path:
    path = folder / "task.yaml"
    path.write_text(f"{HEAD}splits: {splits}\n{more}")
    return path


def write_csv(path: Path, rows: list[dict[str, str]], **style: Any) -> Path:
    with path.open("w", newline="", encoding=style.pop("encoding", "utf-8")) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), **style)
        writer.writeheader()
        writer.writerows(rows)
    return path


def refusal(folder: Path, more: str = "") -> str:
    with pytest.raises(BadInput) as caught:
        read_split(load_task(task_file(folder, more)), "search")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "style",
    [
        {},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"encoding": "utf-8-sig"},
        {"lineterminator": "\n"},
        {"quoting": csv.QUOTE_ALL},
    ],
    ids=str,
)
def test_csv_gives_the_same_samples_as_jsonl(folder: Path, style: dict[str, Any]) -> None:
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_csv(folder / "x.csv", ROWS, **style)
    task = load_task(task_file(folder, splits="{search: x.csv, holdout: x.jsonl}"))
    assert read_split(task, "search") == read_split(task, "holdout")
    assert split_digest(read_split(task, "search")) == split_digest(read_split(task, "holdout"))


@settings(max_examples=60)
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]))
def test_what_csv_writes_comes_back(rows: list[tuple[str, str, str]], mark: str) -> None:
    import tempfile

    written = [{"image": "0.png", "answer": a or "x", "b": b, "c d": c} for a, b, c in rows]
    with tempfile.TemporaryDirectory() as place:
        path = write_csv(Path(place) / "x.csv", written, delimiter=mark)
        read = list(csv_rows(path, {}))
    assert [row for _, row in read] == written
    assert read[0][0] == "line 2"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(texts, texts, st.lists(texts, min_size=1, max_size=4), st.dictionaries(texts, values, max_size=3))
def test_a_row_of_jsonl_keeps_its_texts_and_every_field(
    name: str, question: str, answers: list[str], more: dict[str, Any]
) -> None:
    row = {**more, "id": name, "image": "a.png", "question": question, "answers": answers}
    row.pop("answer", None)
    read = json.loads(json.dumps(row))
    sample = sample_of(read, {}, "", Path("sets/x.jsonl"), "search-1", "here")
    assert (sample.id, sample.question, sample.answers) == (name, question, tuple(answers))
    assert sample.image == Path("sets/a.png")
    assert set(sample.fields) == set(row) - {"id", "image", "question", "answers"}
    for field, text in sample.fields.items():
        assert (text if isinstance(row[field], str) else json.loads(text)) == row[field]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,answer\n0.png,red,blue\n", ["x.csv, line 2", "3 cells", "2 columns"]),
        ("image,answer\n0.png,red\n\n1.png\n", ["x.csv, line 4", "1 cells"]),
        ('image,answer\n0.png,"red\n', ["x.csv, line 2", "not CSV", "quotes"]),
        ('image,answer\n0.png,"a\nb"\n0.png,\n', ["x.csv, line 4", "answer"]),
        ("image,answer,answer\n", ["x.csv, line 1", "two columns", "'answer'"]),
        ("imag,answer\n0.png,red\n", ["x.csv, line 2", "'image' is missing", "did you mean imag?", "columns"]),
        ("image,anwser\n0.png,red\n", ["x.csv, line 2", "did you mean anwser?"]),
        ("image,answer\n9.png,red\n", ["x.csv, line 2", "9.png", "missing"]),
        ("image,answer\n,red\n", ["x.csv, line 2", "'image'", "empty"]),
        ("image,answers\n0.png,red\n", ["x.csv, line 2: answers", "JSON list"]),
        ('image,answers\n0.png,"[""red"", [1]]"\n', ["x.csv, line 2", "answer"]),
        ('image,answer,answers\n0.png,red,"[""red""]"\n', ["x.csv, line 2", "either"]),
        (b"image,answer\n0.png,gr\xfcn\n", ["x.csv, line 2", "UTF-8"]),
        ("image,answer\n0.png," + "x" * 200_000 + "\n", ["x.csv, line 2", "field limit"]),
        ("image,answer\n", ["x.csv", "empty"]),
        ("", ["x.csv", "empty"]),
    ],
)
def test_bad_csv_is_refused_with_its_line(folder: Path, text: str | bytes, words: list[str]) -> None:
    (folder / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(folder, "question: which ?")
    for word in words:
        assert word in message


def test_columns_and_one_question_make_a_classification_set(folder: Path) -> None:
    (folder / "x.csv").write_text(",file,label,camera,answer\n0,0.png,ok,left,no\n1,1.png,7,right,yes\n")
    more = "columns: {image: file, answer: label}\nquestion: is it ok ?\nslices: [camera, answer]\n"
    first, second = read_split(load_task(task_file(folder, more)), "search")
    assert (first.id, first.question, first.answers) == ("search-1", "is it ok ?", ("ok",))
    assert first.image == folder / "0.png"
    assert first.fields == {"camera": "left", "answer": "no"}
    assert (second.answers, second.value("answer"), second.value("camera")) == (("7",), "7", "right")


def test_answers_in_csv_are_a_json_list_of_texts(folder: Path) -> None:
    (folder / "x.csv").write_text('image,all,question\n0.png,"[""red"", 3, 2.50]",which ?\n')
    (sample,) = read_split(load_task(task_file(folder, "columns: {answers: all}")), "search")
    assert sample.answers == ("red", "3", "2.50")


def test_rows_without_ids_must_not_be_shared_between_splits(folder: Path) -> None:
    (folder / "x.csv").write_text("image,answer\n0.png,red\n")
    (folder / "y.csv").write_text("image,answer\n1.png,red\n")
    path = task_file(folder, "question: which ?", "{search: x.csv, holdout: y.csv}")
    assert set(read_splits(load_task(path), ["search", "holdout"])) == {"search", "holdout"}
    (folder / "y.csv").write_text("image,answer\n1.png,red\n0.png,red\n")
    with pytest.raises(BadInput, match=r"'holdout-2'.* also in the search split"):
        read_splits(load_task(path), ["search", "holdout"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("slices: [knd]", ["task.yaml: slices", "x.csv", "'knd'", "did you mean kind?"]),
        (
            "costs: {classes: [a, b], matrix: [[0, 1], [1, 0]], where: {knid: [x]}}",
            ["costs.where", "'knid'", "did you mean kind?"],
        ),
        ("costs: {classes: [blue, green], matrix: [[0, 1], [1, 0]]}", ["x.csv, line 2", "'red'", "blue, green"]),
        ("metric: {name: numeric}", ["x.csv, line 2", "numeric", "'red'"]),
    ],
)
def test_what_the_task_needs_of_a_row_is_checked_when_it_is_read(folder: Path, more: str, words: list[str]) -> None:
    (folder / "x.csv").write_text("image,answer,kind\n0.png,red,a\n")
    path = task_file(folder, f"question: which ?\n{more}")
    if more.startswith("metric"):
        path.write_text(path.read_text().replace("metric: exact\n", ""))
    with pytest.raises(BadInput) as caught:
        read_split(load_task(path), "search")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("place", ["/dev/zero", "x" * 300, "nul\\0", "."])
def test_what_is_no_set_is_refused(folder: Path, place: str) -> None:
    path = task_file(folder, splits=json.dumps({"search": place.replace("\\0", "\0")}))
    with pytest.raises(BadInput):
        read_split(load_task(path), "search")


def test_the_kind_of_set_goes_by_its_path(folder: Path) -> None:
    (folder / "X.CSV").write_text("a\n1\n")
    (folder / "x.json").write_text('{"a": 1}\n')
    assert list(rows_of(folder / "X.CSV", {})) == [("line 2", {"a": "1"})]
    assert list(rows_of(folder / "x.json", {})) == [("line 1", {"a": 1})]
