import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles.store import Gone, Store
from search.build import StageTree, build_stage
from search.checks import refuse_missing_splits
from spaces.axes import Axis, Choice, Domain, Samples
from spaces.candidate import Candidate
from spaces.errors import BadInput, StageFailed
from spaces.knobs import Choices
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.sample import Sample
from spaces.space import Space

SAMPLE = Sample(id="1", image=Path("1.png"), question="what ?", answers=("that",))
SAMPLES = {"train": (SAMPLE,), "calibration": (SAMPLE,)}
DIGESTS = {"train": "t", "calibration": "c"}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    axes = {
        "model": {"path": ["a", "b"]},
        "pruning": {"ffn": [0, 0.5]},
        "tuning": {"method": ["none", "lora"], "steps": [10, 20]},
        "visual_tokens": {"keep": [1.0, 0.5]},
        "quantization": {"weights": ["fp16", "int4"], "method": ["rtn", "awq"]},
        "prompt": {"template": ["{question}", "look . {question}"]},
        "runtime": {"threads": [1, 2]},
    }
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


def tree(space: Space, seed: int = 0, train: str = "t", calibration: str = "c") -> StageTree:
    return StageTree(space, SAMPLES, {"train": train, "calibration": calibration}, 8, seed)


def test_candidates_share_stages_exactly_up_to_where_they_part(space: Space) -> None:
    planned = tree(space)
    order = ["model", "pruning", "tuning", "runtime", "visual_tokens", "quantization"]
    bound = {"runtime.threads", "prompt.template"}
    candidates = list(space.candidates())[:400:7]
    for left in candidates:
        for right in candidates[:20]:
            names = {*left.values, *right.values} - bound
            differing = {name.split(".")[0] for name in names if left.values.get(name) != right.values.get(name)}
            first = min((order.index(axis) for axis in differing), default=len(order))
            before = {stage.axis: stage.key for stage in planned.plan(left)}
            after = {stage.axis: stage.key for stage in planned.plan(right)}
            for axis in {*before} & {*after}:
                assert (before[axis] == after[axis]) == (order.index(axis) < first), (axis, differing)


def test_each_stage_takes_what_the_one_before_it_made(space: Space) -> None:
    for candidate in list(space.candidates())[::31]:
        stages = tree(space).plan(candidate)
        assert stages[0].axis == "model"
        assert [stage.input_key for stage in stages] == ["", *(stage.key for stage in stages[:-1])]


def full(space: Space) -> Candidate:
    return space.candidate(
        {
            "model.path": "a",
            "pruning.ffn": 0.5,
            "tuning.method": "lora",
            "tuning.steps": 10,
            "visual_tokens.keep": 0.5,
            "quantization.weights": "int4",
            "quantization.method": "awq",
            "prompt.template": "{question}",
            "runtime.threads": 1,
        }
    )


@pytest.mark.parametrize(
    ("change", "first_changed"),
    [({"seed": 1}, "pruning"), ({"train": "other"}, "tuning"), ({"calibration": "other"}, "runtime")],
)
def test_what_a_stage_reads_is_in_its_key(space: Space, change: dict[str, object], first_changed: str) -> None:
    before = tree(space).plan(full(space))
    after = tree(space, **change).plan(full(space))  # type: ignore[arg-type]
    same = [left.axis for left, right in zip(before, after, strict=True) if left.key == right.key]
    axes = [stage.axis for stage in before]
    expected = axes[: axes.index(first_changed)]
    assert same == expected


def test_a_changed_model_file_changes_every_key(space: Space) -> None:
    before = tree(space).plan(full(space))
    (space.folder / "a" / "config.json").write_text("changed")
    after = tree(space).plan(full(space))
    assert not {stage.key for stage in before} & {stage.key for stage in after}


def test_a_stage_that_is_refused_leaves_nothing_in_the_store(space: Space, tmp_path: Path) -> None:
    stage = tree(space).plan(full(space))[0]
    with pytest.raises(BadInput):
        build_stage(stage, tmp_path / "store")
    assert Store(tmp_path / "store").get(stage.key) is None
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert not list((tmp_path / "store" / "entries").iterdir())


def test_an_error_on_a_full_disk_is_the_disks(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries say anything when they cannot write: the candidate is not to blame."""
    stage = tree(space).plan(next(iter(space.candidates())))[0]
    with pytest.raises(BadInput):
        build_stage(stage, tmp_path / "store")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build_stage(stage, tmp_path / "store")


class Odd:
    name = "odd"
    version = 1
    tools: tuple[str, ...] = ()
    domains: Mapping[str, Domain] = {"on": Domain(kind="flag", default=False, help="whether it is on")}

    def __init__(self, read: Any) -> None:
        self._read = read

    def changes(self, choice: Choice) -> bool:
        return bool(choice["on"])

    def reads(self, choice: Choice) -> Any:
        return self._read()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        raise AssertionError


def with_odd(space: Space, read: Any, on: tuple[bool, ...]) -> Space:
    odd: Axis = Odd(read)
    return replace(
        space, axes=(*space.axes[:-1], odd, space.axes[-1]), knobs=(*space.knobs, Choices(name="odd.on", values=on))
    )


def test_what_any_axis_reads_must_be_there(space: Space, tmp_path: Path) -> None:
    task = tmp_path / "task.yaml"
    reads_rare = with_odd(space, lambda: ("rare",), (False, True))
    refuse_missing_splits(reads_rare, {"calibration": 0, "train": 0, "rare": 0}, task)
    refuse_missing_splits(with_odd(space, lambda: ("rare",), (False,)), {"calibration": 0, "train": 0}, task)
    with pytest.raises(BadInput, match=r"task\.yaml: splits\.rare: this space needs a rare split"):
        refuse_missing_splits(reads_rare, {"calibration": 0, "train": 0}, task)
    with pytest.raises(BadInput, match=r"splits\.train"):
        refuse_missing_splits(space, {"calibration": 0}, task)
    on = next(one for one in reads_rare.candidates() if one.values["odd.on"])
    with pytest.raises(StageFailed, match="odd reads the split rare, which the task does not have"):
        tree(reads_rare).plan(on)


@pytest.mark.parametrize(
    ("read", "why"),
    [(lambda: 1 // 0, "ZeroDivisionError"), (lambda: "train", "TypeError: reads"), (lambda: (1,), "TypeError: reads")],
)
def test_an_axis_that_breaks_when_asked_is_named(space: Space, tmp_path: Path, read: Any, why: str) -> None:
    broken = with_odd(space, read, (True,))
    with pytest.raises(StageFailed, match=f"the axis 'odd' broke .{why}"):
        tree(broken).plan(next(broken.candidates()))
    with pytest.raises(BadInput, match=rf"space\.yaml: the axis 'odd' broke .{why}.*uninstall"):
        refuse_missing_splits(broken, {}, tmp_path / "task.yaml")


def test_an_input_that_went_away_is_told_apart_from_a_failure(space: Space, tmp_path: Path) -> None:
    stage = next(stage for stage in tree(space).plan(full(space)) if stage.input_key)
    with pytest.raises(Gone):
        build_stage(stage, tmp_path / "store")
