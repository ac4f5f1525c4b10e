"""Spaces that some model's shape does not allow are refused as a whole, with what would do."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from spaces.axes import pruning
from spaces.axes.pruning_shape import kept_width
from spaces.axes.quantization_rules import illegal
from spaces.errors import BadInput
from spaces.legality import RULES, idle, refuse_illegal, shapes
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.space import Space


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Two models: ``tiny`` of widths 64, 64, 128, and ``odd``, its FFN cut by hand to 96."""
    import json

    from safetensors.numpy import load_file, save_file

    for name in ("tiny", "odd"):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    path = tmp_path / "odd" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "language_model" in name and ("gate_proj" in name or "up_proj" in name):
            tensors[name] = tensor[:96].copy()
        elif "language_model" in name and "down_proj" in name:
            tensors[name] = tensor[:, :96].copy()
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    return tmp_path


def space_of(folder: Path, **axes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


def refusal(space: Space) -> str:
    with pytest.raises(BadInput) as refused:
        refuse_illegal(space)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_group_that_divides_every_width_is_legal(folder: Path) -> None:
    quantization = {"weights": ["int8", "int4"], "group_size": [32, 64]}
    refuse_illegal(space_of(folder, model={"path": "tiny"}, quantization=quantization))


def test_a_group_that_divides_no_width_is_refused_with_the_nearest(folder: Path) -> None:
    quantization = {"weights": ["int8", "int4"], "group_size": [32, 64]}
    message = refusal(space_of(folder, model={"path": ["tiny", "odd"]}, quantization=quantization))
    assert "space.yaml: axes.quantization.group_size: for odd" in message
    assert "64 does not divide the language model's widths (64, 96)" in message
    assert message.endswith("take 32.")


def test_the_default_group_counts_where_the_space_lists_none(folder: Path) -> None:
    message = refusal(space_of(folder, model={"path": "odd"}, quantization={"weights": "int4"}))
    assert "group_size (its default, as the space does not list it)" in message
    assert "take 32" in message


def test_a_group_that_never_meets_int4_of_that_model_is_legal(folder: Path) -> None:
    weights = {"choices": ["int8", "int4"], "when": {"model.path": ["tiny"]}}
    axes = {"model": {"path": ["tiny", "odd"]}, "quantization": {"weights": weights, "group_size": 64}}
    refuse_illegal(space_of(folder, **axes))


def test_the_pruned_width_is_the_one_that_counts(folder: Path) -> None:
    quantization = {"weights": "int4", "group_size": 128}
    message = refusal(space_of(folder, model={"path": "tiny"}, pruning={"ffn": [0, 0.5]}, quantization=quantization))
    assert "128 does not divide the language model's widths (64, 128)" in message
    axes = {"model": {"path": "odd"}, "pruning": {"ffn": 0.5}}
    refuse_illegal(space_of(folder, **axes, quantization={"weights": "int4", "group_size": 64}))


def test_a_continuous_share_is_tried_between_its_ends(folder: Path) -> None:
    """Of 96 channels a share of 0 leaves 96, of 0.9 leaves 64; only the former does not fit."""
    axes: dict[str, Any] = {"model": {"path": "odd"}, "quantization": {"weights": "int4", "group_size": 64}}
    refuse_illegal(space_of(folder, **axes, pruning={"ffn": {"low": 0.3, "high": 0.9}}))
    message = refusal(space_of(folder, **axes, pruning={"ffn": {"low": 0.0, "high": 0.9}}))
    assert "widths (64, 96)" in message


def test_a_missing_or_foreign_model_is_refused_with_the_field(folder: Path) -> None:
    (folder / "tiny" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"space\.yaml: axes\.model\.path: .*config\.json"):
        shapes(space_of(folder, model={"path": "tiny"}))


def test_a_knob_without_effect_is_named(folder: Path) -> None:
    axes = {"model": {"path": "tiny"}, "quantization": {"weights": ["fp16", "int8"], "group_size": [32, 64]}}
    assert [knob.name for knob in idle(space_of(folder, **axes))] == ["quantization.group_size"]


def test_every_knob_of_a_rule_belongs_to_an_axis() -> None:
    axes = {axis.name for axis in builtin()}
    assert {name.split(".")[0] for names, _ in RULES for name in names} <= axes
    assert "ffn" in pruning.AXIS.domains


@pytest.mark.parametrize("size", [32, 64, 128])
def test_what_is_legal_divides_every_row(size: int) -> None:
    for rows in ([64, 128], [96], [384, 128], [80]):
        wrong = illegal(
            {"weights": "int4", "vision": "fp16", "projector": "fp16", "group_size": size}, {"weights": rows}
        )
        assert (wrong is None) == all(row % size == 0 for row in rows)


def test_odd_widths_between_even_points_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8192 channels each 32nd share leaves a multiple of 256; shares in between leave odd multiples of 64."""
    wide = shapes(space_of(folder, model={"path": "tiny"}))["tiny"]
    tower = replace(wide.language, width=128, heads=2, head_dim=64, ffn=8192)
    monkeypatch.setattr("spaces.legality.read_shape", lambda _: replace(wide, language=tower))
    axes: dict[str, Any] = {"model": {"path": "tiny"}, "quantization": {"weights": "int4", "group_size": 128}}
    assert all(kept_width(8192, 0.5 * point / 32) % 128 == 0 for point in range(33))
    for ffn in ({"low": 0.0, "high": 0.5}, {"low": 0.0, "high": 0.5, "step": 0.001}):
        assert "128 does not divide" in refusal(space_of(folder, **axes, pruning={"ffn": ffn}))
    refuse_illegal(space_of(folder, **axes, pruning={"ffn": {"low": 0.0, "high": 0.5, "step": 1 / 64}}))
    refuse_illegal(space_of(folder, **axes, pruning={"ffn": {"low": 0.0, "high": 0.003}}))


def test_a_server_has_a_name_and_no_settings_of_ours(folder: Path) -> None:
    said = refusal(space_of(folder, model={"path": "tiny"}, runtime={"name": ["openvino", "server"]}))
    assert "runtime.server" in said
    assert "'' names no server" in said
    said = refusal(space_of(folder, model={"path": "tiny"}, runtime={"name": "server", "server": "my llama"}))
    assert "'my llama' names no server" in said
    space = space_of(
        folder,
        model={"path": "tiny"},
        runtime={"name": ["torch", "server"], "server": ["llama", "vllm"], "threads": [1, 2]},
    )
    refuse_illegal(space)
    found = [
        {name: value for name, value in one.items() if name != "model.path"}
        for one in space.together(["runtime.name", "runtime.server", "runtime.threads"])
    ]
    assert found == [
        {"runtime.name": "torch", "runtime.threads": 1},
        {"runtime.name": "torch", "runtime.threads": 2},
        {"runtime.name": "server", "runtime.server": "llama"},
        {"runtime.name": "server", "runtime.server": "vllm"},
    ]


def test_torch_has_one_type_for_arithmetic_and_cache(folder: Path) -> None:
    runtime: dict[str, Any] = {"name": "torch", "inference_precision": ["f32", "bf16"]}
    said = refusal(space_of(folder, model={"path": "tiny"}, runtime=runtime))
    assert "runtime.kv_cache_precision f32 is not the bf16" in said
    runtime["kv_cache_precision"] = {"choices": ["bf16"], "when": {"runtime.inference_precision": ["bf16"]}}
    refuse_illegal(space_of(folder, model={"path": "tiny"}, runtime=runtime))
