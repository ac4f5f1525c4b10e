import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spaces.axes.checkpoint import load_strict, save
from spaces.errors import StageFailed


@pytest.fixture
def copied(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    return folder


def _rewrite(
    folder: Path, change: dict[str, str | None], **more: "np.ndarray[tuple[int, ...], np.dtype[np.float16]]"
) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, new in change.items():
        tensor = tensors.pop(name)
        if new is not None:
            tensors[new] = tensor
    save_file({**tensors, **more}, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_is_saved_loads_again_bit_by_bit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save(load_strict(tiny_checkpoint), tiny_checkpoint, tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tmp_path))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in tiny_checkpoint.iterdir()}


def test_a_renamed_vision_tower_is_not_silently_made_anew(copied: Path) -> None:
    tower = [name for name in load_file(copied / "model.safetensors") if "vision_tower" in name]
    _rewrite(copied, {name: name.replace("vision_tower", "tower") for name in tower})
    with pytest.raises(StageFailed, match=r"missing .*vision_tower.*unexpected"):
        load_strict(copied)


def test_a_surplus_tensor_is_refused(copied: Path) -> None:
    _rewrite(copied, {}, surplus=np.zeros(3, dtype=np.float16))
    with pytest.raises(StageFailed, match="unexpected surplus"):
        load_strict(copied)


def test_a_tensor_of_another_shape_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageFailed, match=r"of another shape .*mlp"):
        load_strict(copied)


def test_weights_beyond_half_precision_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = load_strict(tiny_checkpoint)
    model.lm_head.weight.data[0, 0] = 1e6
    with pytest.raises(StageFailed, match=r"lm_head\.weight holds values"):
        save(model, tiny_checkpoint, tmp_path)
