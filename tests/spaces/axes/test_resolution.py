import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.build import StageTree
from spaces.axes.checkpoint import load_strict
from spaces.axes.layout import Layout
from spaces.axes.model import AXIS, check_image_size, check_model_folder
from spaces.axes.resolution import resized_table, resizing_problem
from spaces.errors import StageFailed
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.sample import Sample
from tests.foreign import build_foreign


def cubic(distance: float) -> float:
    """The kernel of Keys (1981) with a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def weights_1d(before: int, after: int) -> npt.NDArray[np.float64]:
    """(after, before) weights of bicubic interpolation: centres of pixels as places, edges repeated."""
    rows = np.zeros((after, before))
    for row in range(after):
        place = (row + 0.5) * before / after - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            rows[row, min(max(tap, 0), before - 1)] += cubic(place - tap)
    return rows


@given(classes=st.integers(0, 1), before=st.integers(1, 9), after=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_resized_table_is_bicubic_and_keeps_the_class_position(
    classes: int, before: int, after: int, seed: int
) -> None:
    import torch

    table = np.random.default_rng(seed).normal(size=(classes + before**2, 3)).astype(np.float32)
    made = resized_table(torch.from_numpy(table), classes, after).numpy()
    grid, scale = table[classes:].reshape(before, before, 3), weights_1d(before, after)
    wanted = np.einsum("ri,cj,ijd->rcd", scale, scale, grid).reshape(-1, 3)
    np.testing.assert_array_equal(made[:classes], table[:classes])
    np.testing.assert_allclose(made[classes:], wanted, atol=1e-4)


@given(patch=st.integers(1, 64), size=st.integers(-10, 4096))
def test_a_size_is_refused_exactly_where_patches_do_not_fill_it_and_the_nearest_is_named(patch: int, size: int) -> None:
    problem = resizing_problem({"patch_size": patch}, size)
    if size > 0 and size % patch == 0:
        assert problem is None
        return
    assert problem is not None
    named = int(problem.removesuffix(".").rsplit(" ", 1)[1])
    multiples = range(patch, size + 2 * patch + 1, patch) if size > 0 else [patch]
    assert abs(named - size) == min(abs(one - size) for one in multiples)


def test_sizes_of_a_folder_are_checked_by_its_config_alone(foreign_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((foreign_checkpoint / "config.json").read_bytes())
    assert check_image_size(tmp_path, 0) is None
    assert check_image_size(tmp_path, 448) is None
    assert str(check_image_size(tmp_path, 400)).endswith("patches of 14 pixels: take 406.")


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("towers")
    siglip: dict[str, Any] = {"vision": "siglip_vision_model", "vision_fields": {"patch_size": 8}}
    return {
        "clip": build_foreign(folder / "clip", shard_size="200KB", vision_fields={"image_size": 56}),
        "siglip": build_foreign(folder / "siglip", vision_feature_select_strategy="full", **siglip),
    }


@pytest.mark.parametrize(("tower", "size", "tokens"), [("clip", 84, 36), ("siglip", 32, 16)])
def test_a_resized_checkpoint_sees_as_the_tower_interpolates_by_itself(
    towers: dict[str, Path], tower: str, size: int, tokens: int, tmp_path: Path, photographs: list[Path]
) -> None:
    import torch

    source, target = towers[tower], tmp_path / "target"
    target.mkdir()
    AXIS.apply({"path": str(source), "image_size": size}, source, target, {}, 0)
    check_model_folder(target)
    config = json.loads((target / "config.json").read_text())
    assert (config["vision_config"]["image_size"], config["image_seq_length"]) == (size, tokens)
    images = json.loads((target / "preprocessor_config.json").read_text())
    assert images["crop_size"] == {"height": size, "width": size}
    pixels = torch.from_numpy(Layout(target).pixels(photographs))
    assert pixels.shape == (4, 3, size, size)
    with torch.no_grad():
        made = load_strict(target).get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        original = load_strict(source)
        seen = original.model.vision_tower(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
        states = seen.hidden_states[-2][:, 1:] if tower == "clip" else seen.hidden_states[-2]
        wanted = original.model.multi_modal_projector(states)
    assert made[0].shape[0] == tokens
    torch.testing.assert_close(torch.stack(list(made)), wanted, atol=1e-4, rtol=1e-4)


def test_only_the_file_with_the_positions_is_written_anew(towers: dict[str, Path], tmp_path: Path) -> None:
    source, target = towers["clip"], tmp_path / "target"
    target.mkdir()
    AXIS.apply({"path": str(source), "image_size": 28}, source, target, {}, 0)
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    index = json.loads((source / "model.safetensors.index.json").read_text())
    table = next(file for name, file in index["weight_map"].items() if name.endswith("position_embedding.weight"))
    assert [name for name in shards if (source / name).stat().st_ino != (target / name).stat().st_ino] == [table]
    sizes = {name: (target / name).stat().st_size for name in shards}
    assert sizes[table] < (source / table).stat().st_size
    after = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] - after["metadata"]["total_size"] == (16 - 4) * 40 * 4


def test_a_size_between_patches_fails_the_stage(towers: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="take 56"):
        AXIS.apply({"path": str(towers["clip"]), "image_size": 50}, tmp_path, tmp_path, {}, 0)


def test_another_resolution_is_another_stage_and_zero_is_the_stage_without_the_knob(tmp_path: Path) -> None:
    sample = (Sample(id="1", image=Path("1.png"), question="what ?", answers=("that",)),)
    (tmp_path / "a").mkdir()
    keys = []
    for sizes in ("", ", image_size: 0", ", image_size: 28"):
        path = tmp_path / "space.yaml"
        path.write_text(f"schema: vlmfront.space/1\naxes: {{model: {{path: a{sizes}}}, prompt: {{hint: false}}}}\n")
        space = load_space(path, builtin())
        tree = StageTree(space, {"calibration": sample}, {"calibration": "c"}, 8, 0)
        keys.append(tree.plan(next(iter(space.candidates())))[0].key)
    assert keys[0] == keys[1] != keys[2]
