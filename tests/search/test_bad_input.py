"""Bad input ends with exit code 2 and one clear sentence before any work; nothing half-written remains."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from search.cli import main

Change = Callable[[Path], Any]


def edit(path: Path, **fields: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def axes(folder: Path, **changed: Any) -> None:
    space = yaml.safe_load((folder / "space.yaml").read_text())
    edit(folder / "space.yaml", axes=space["axes"] | changed)


def row(folder: Path, number: int, split: str = "search", **fields: Any) -> None:
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= fields
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def truncate(folder: Path) -> None:
    image = folder / "images" / "search-3.png"
    image.write_bytes(image.read_bytes()[:200])


def holdout_without_exemplars(folder: Path) -> None:
    axes(folder, prompt={"exemplars": [0, 2]})
    row(folder, 7, "holdout", kind="other")


def exemplars_without_split(folder: Path) -> None:
    axes(folder, prompt={"exemplars": [0, 2]})
    edit(folder / "task.yaml", splits={name: f"{name}.jsonl" for name in ("calibration", "search")})


CASES: dict[str, tuple[Change, list[str]]] = {
    "missing eval set": (lambda f: (f / "search.jsonl").unlink(), ["search.jsonl", "no such evaluation set"]),
    "empty eval set": (lambda f: (f / "search.jsonl").write_text(""), ["search.jsonl", "empty"]),
    "image missing": (
        lambda f: (f / "images/search-3.png").unlink(),
        ["search.jsonl, line 4", "search-3.png", "missing"],
    ),
    "image truncated": (truncate, ["search.jsonl, line 4", "search-3.png", "whole file"]),
    "no image": (lambda f: (f / "images/search-3.png").write_text("hello"), ["line 4", "cannot be read as an image"]),
    "row without answer": (lambda f: row(f, 5, answers=[]), ["search.jsonl, line 6", "answer"]),
    "image token in a question": (
        lambda f: row(f, 2, question="what is <image> ?"),
        ["search-2", "<image>", "take it out"],
    ),
    "row without a hint": (lambda f: row(f, 7, kind="other"), ["search-7", "no hint for kind=other"]),
    "holdout row without a hint": (
        lambda f: row(f, 7, "holdout", kind="other"),
        ["holdout.jsonl", "holdout-7", "no hint for kind=other"],
    ),
    "holdout row without exemplars": (
        holdout_without_exemplars,
        ["train.jsonl", "0 rows with kind=other", "up to 2"],
    ),
    "exemplars of no split": (
        exemplars_without_split,
        ["task.yaml: splits.train"],
    ),
    "half a character": (lambda f: row(f, 1, question="what \ud800"), ["search.jsonl, line 2", "surrogate"]),
    "image that is a line": (
        lambda f: Image.new("RGB", (6000, 1)).save(f / "images/search-3.png"),
        ["search.jsonl, line 4", "6000 by 1"],
    ),
    "seed too large": (lambda f: edit(f / "search.yaml", seed=5_000_000_000), ["search.yaml", "seed"]),
    "store limit without sense": (
        lambda f: edit(f / "search.yaml", store_limit="plenty"),
        ["search.yaml", "store_limit", "20GB", "'plenty'"],
    ),
    "name that leaves runs": (lambda f: edit(f / "search.yaml", name="../x"), ["search.yaml", "name"]),
    "store of null": (lambda f: edit(f / "search.yaml", store=None), ["search.yaml", "store"]),
    "unknown knob": (lambda f: axes(f, quantization={"wieghts": ["int8"]}), ["wieghts", "did you mean weights"]),
    "unknown method": (lambda f: axes(f, tuning={"method": ["qlora"]}), ["tuning.method", "qlora", "lora"]),
    "unknown axis": (lambda f: axes(f, pruninng={"ffn": [0.5]}), ["pruninng", "did you mean pruning"]),
    "bit-width that the runtime lacks": (
        lambda f: axes(f, runtime={"name": "torch"}),
        ["quantization.weights", "torch", "int8"],
    ),
    "more threads than the device": (lambda f: axes(f, runtime={"threads": [999]}), ["runtime.threads", "999"]),
    "template without question": (lambda f: axes(f, prompt={"template": ["look"]}), ["prompt.template", "{question}"]),
    "no such model": (lambda f: axes(f, model={"path": ["models/zzz"]}), ["models/zzz"]),
    "model without config": (lambda f: (f / "models/a/config.json").unlink(), ["models/a", "config.json"]),
    "model without weights": (lambda f: (f / "models/a/model.safetensors").unlink(), ["models/a", "safetensors"]),
    "pickle beside the model": (lambda f: (f / "models/b/pytorch_model.bin").write_bytes(b"\x80\x04."), ["pickle"]),
    "budget of zero": (lambda f: edit(f / "search.yaml", budget="0trials"), ["search.yaml", "budget"]),
    "budget of nonsense": (lambda f: edit(f / "search.yaml", budget="soon"), ["search.yaml", "budget", "soon"]),
    "unknown objective": (
        lambda f: edit(f / "search.yaml", objectives=["acuracy"]),
        ["acuracy", "did you mean accuracy"],
    ),
    "cost without costs": (
        lambda f: edit(f / "search.yaml", objectives=["accuracy", "cost"]),
        ["search.yaml: objectives: cost needs", "`costs`", "task.yaml"],
    ),
    "forgetting without retention": (
        lambda f: edit(f / "search.yaml", limits={"forgetting": {"max": 0.1}}),
        ["search.yaml: limits: forgetting needs", "retention"],
    ),
    "retention of no task": (lambda f: edit(f / "search.yaml", retention={"split": "x"}), ["retention.task", "path"]),
    "retention of a missing task": (
        lambda f: edit(f / "search.yaml", retention={"task": "other/task.yaml"}),
        ["other/task.yaml"],
    ),
    "retention of a missing split": (
        lambda f: edit(f / "search.yaml", retention={"task": "task.yaml", "split": "trian"}),
        ["trian", "did you mean train"],
    ),
    "retention of no items": (
        lambda f: edit(f / "search.yaml", retention={"task": "task.yaml", "items": 0}),
        ["search.yaml: retention.items", "0"],
    ),
    "retention with an unknown field": (
        lambda f: edit(f / "search.yaml", retention={"task": "task.yaml", "splt": "train"}),
        ["retention", "did you mean split"],
    ),
    "retention that is no mapping": (lambda f: edit(f / "search.yaml", retention=7), ["retention", "mapping"]),
    "racing that is no flag": (lambda f: edit(f / "search.yaml", racing="often"), ["racing", "often"]),
    "objective of no module": (
        lambda f: edit(f / "search.yaml", objectives=["accuracy", "nowhere.figures:WORDS"]),
        ["search.yaml", "nowhere.figures:WORDS", "module:attr"],
    ),
    "limit on an object that is no objective": (
        lambda f: edit(f / "search.yaml", limits={"json:dumps": {"max": 1}}),
        ["json:dumps", "lacks name, label"],
    ),
    "objectives that are numbers": (lambda f: edit(f / "search.yaml", objectives=[1, None]), ["objectives", "1"]),
    "unknown field": (lambda f: edit(f / "search.yaml", budgett="5m"), ["budgett", "did you mean budget"]),
    "unknown device": (lambda f: edit(f / "search.yaml", device="jetson"), ["device", "jetson", "vlmfront device add"]),
    "limit that is no number": (lambda f: edit(f / "search.yaml", limits={"size_mb": {"max": "big"}}), ["size_mb.max"]),
    "no YAML": (lambda f: (f / "search.yaml").write_text("a: [1"), ["search.yaml", "line", "not YAML"]),
    "no calibration split": (
        lambda f: edit(f / "task.yaml", splits={"search": "search.jsonl"}),
        ["task.yaml", "calibration"],
    ),
    "hint knob without hints": (
        lambda f: edit(f / "task.yaml", hints=None),
        ["prompt.hint", "hints"],
    ),
}


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["vlmfront", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_sentence_and_leaves_nothing(
    case: str,
    project: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = project()
    change, words = CASES[case]
    change(config.parent)
    before = sorted(config.parent.rglob("*"))
    code, message = run(monkeypatch, capsys, "search", str(config), "--run", str(config.parent / "runs" / "one"))
    assert code == 2, message
    assert message.count("\n") == 1, message
    for word in words:
        assert word in message, message
    assert sorted(config.parent.rglob("*")) == before


@pytest.mark.parametrize("case", ["row without a hint", "holdout row without exemplars", "exemplars of no split"])
def test_a_space_check_with_the_task_refuses_what_a_search_refuses(
    case: str,
    project: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = project().parent
    change, words = CASES[case]
    change(folder)
    task = str(folder / "task.yaml")
    code, message = run(monkeypatch, capsys, "space", "check", str(folder / "space.yaml"), "--task", task)
    assert code == 2, message
    assert all(word in message for word in words), message


def test_a_run_of_another_space_is_refused_and_left_alone(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from objectives.run import RunFolder

    config = project()
    folder = config.parent / "one"
    RunFolder.create(folder, {"space_id": "of another space", "task": {}, "search": {}, "device": {}})
    for flags, words in (((), "exists already"), (("--resume",), "another space")):
        code, message = run(monkeypatch, capsys, "search", str(config), "--run", str(folder), *flags)
        assert code == 2
        assert words in message
        assert "--run" in message
    assert not (folder / "study.journal").exists()


@pytest.mark.parametrize("place", ["runs", "store"])
def test_a_read_only_folder_is_refused(
    place: str, project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = project().parent / "locked"
    config = project(store=str(locked / "store") if place == "store" else "store")
    locked.mkdir()
    locked.chmod(0o555)
    run_folder = locked / "one" if place == "runs" else config.parent / "one"
    code, message = run(monkeypatch, capsys, "search", str(config), "--run", str(run_folder))
    locked.chmod(0o755)
    assert code == 2
    assert "read-only" in message
    assert not run_folder.exists()
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "nowhere"], ["nowhere", "no run folder"]),
        (["pick", "nowhere"], ["nowhere", "no run folder"]),
        (["export", "nowhere", "1", "out"], ["nowhere", "no run folder"]),
        (["run", "nowhere", "--image", "x.png", "--question", "what ?"], ["x.png"]),
        (["search", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["search", "nowhere.yaml", "--budget", "never"], ["budget", "never"]),
        (["dance"], ["dance", "--help"]),
        (["pick", "nowhere", "--min", "accuracy"], ["--min accuracy", "NAME=VALUE"]),
        (["pick", "nowhere", "--max", "size_mb=big"], ["big"]),
    ],
)
def test_every_verb_refuses_in_one_sentence(
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_tampered_with_is_refused(
    tiny_openvino: Path,
    tiny_images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hardware_profiles.bundle import Execution, seal
    from spaces.prompting import Prompt

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_openvino, bundle)
    seal(
        bundle,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=2,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    graph = bundle / "openvino_language_model.xml"
    graph.chmod(0o644)
    graph.write_text(graph.read_text().replace("Result", "Resulk"))
    code, message = run(monkeypatch, capsys, "run", str(bundle), "--image", str(tiny_images[0]), "--question", "what ?")
    assert code == 2
    assert "openvino_language_model.xml" in message


def test_another_retention_set_or_race_is_another_search(project: Callable[..., Path]) -> None:
    from search.session import prepare
    from spaces.errors import BadInput

    retention = {"task": "other.yaml", "split": "train", "items": 4}
    config = project(retention=retention)
    folder = config.parent
    shutil.copy(folder / "task.yaml", folder / "other.yaml")
    edit(folder / "other.yaml", max_new_tokens=9)
    prepared = prepare(config, run=folder / "one", budget=None, resume=False)
    prepared.close()
    assert prepared.task.max_new_tokens == 9
    assert prepared.retention is not None
    assert [sample.id for sample in prepared.retention.samples] == [f"train-{number}" for number in range(4)]
    rows = (folder / "train.jsonl").read_text()
    (folder / "rows.jsonl").write_text(rows.replace('"answer": "green"', '"answer": "blue"'))
    for file, fields in (
        (config, {"racing": False}),
        (config, {"racing": True, "retention": retention | {"items": 5}}),
        (folder / "other.yaml", {"splits": {"train": "rows.jsonl"}}),
    ):
        edit(file, **fields)
        with pytest.raises(BadInput, match=r"search settings \((racing|retention\.[a-z., ]+)\)"):
            prepare(config, run=folder / "one", budget=None, resume=True)
        edit(config, retention=retention)
