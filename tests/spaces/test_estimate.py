"""Estimates of bytes against the files that export and quantization write."""

from pathlib import Path

import pytest

from spaces.axes import Value, model, quantization, tuning
from spaces.estimate import Estimate, estimate
from spaces.plugins import builtin
from spaces.shape import read_shape

GRAPHS = ("openvino_language_model", "openvino_text_embeddings_model", "openvino_vision_embeddings_model")
WEIGHTS: dict[str, dict[str, Value]] = {
    "int8": {"weights": "int8"},
    "int4 by 32": {"weights": "int4", "group_size": 32},
    "int4 by 64": {"weights": "int4", "group_size": 64, "mode": "asym"},
    "every part": {"weights": "int4", "vision": "int4", "projector": "int8", "group_size": 32},
    "vision": {"vision": "int8"},
}


def estimated(folder: Path, **changed: dict[str, Value]) -> Estimate:
    choices = {axis.name: {name: domain.default for name, domain in axis.domains.items()} for axis in builtin()}
    for axis, values in changed.items():
        choices[axis] |= values
    return estimate(read_shape(folder), choices)


def graph_bytes(folder: Path) -> int:
    return sum((folder / f"{name}.bin").stat().st_size for name in GRAPHS)


def test_an_export_weighs_what_was_estimated(tiny_checkpoint: Path, tiny_openvino: Path) -> None:
    assert estimated(tiny_checkpoint).weight_bytes == pytest.approx(graph_bytes(tiny_openvino), rel=0.05)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_quantized_export_weighs_what_was_estimated(
    weights: str, tiny_checkpoint: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    choice = {name: domain.default for name, domain in quantization.AXIS.domains.items()} | WEIGHTS[weights]
    quantization.AXIS.apply(choice, tiny_openvino, tmp_path, {}, 0)
    found = estimated(tiny_checkpoint, quantization=WEIGHTS[weights])
    assert found.weight_bytes == pytest.approx(graph_bytes(tmp_path), rel=0.05)


def test_torch_deploys_the_checkpoint_and_computes_in_f32(tiny_checkpoint: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(tiny_checkpoint / "model.safetensors")
    found = estimated(tiny_checkpoint, runtime={"name": "torch"})
    assert found.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert found.resident_bytes == 4 * found.parameters == 4 * sum(tensor.size for tensor in tensors.values())


def test_of_a_server_the_checkpoint_is_the_least(tiny_checkpoint: Path) -> None:
    found, torch = (estimated(tiny_checkpoint, runtime={"name": name}) for name in ("server", "torch"))
    assert found.resident_bytes == found.weight_bytes == torch.weight_bytes
    assert found.cache_bytes == torch.cache_bytes / 4


def test_the_cache_is_of_the_visual_tokens_that_are_kept(tiny_checkpoint: Path) -> None:
    text = read_shape(tiny_checkpoint).language
    a_token = 2 * text.layers * text.kv_heads * text.head_dim
    assert estimated(tiny_checkpoint).cache_bytes == 4 * a_token * 4
    kept = estimated(tiny_checkpoint, visual_tokens={"keep": 0.5}, runtime={"kv_cache_precision": "u8"})
    assert kept.cache_bytes == 2 * a_token
    assert kept.memory_bytes == kept.resident_bytes + kept.cache_bytes


@pytest.mark.skipif("image_size" not in model.AXIS.domains, reason="the model axis has one image size")
def test_other_image_sizes_have_other_positions_and_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    choice: dict[str, Value] = {"path": str(tiny_checkpoint), "image_size": 32}
    model.AXIS.apply(choice, tmp_path, tmp_path, {}, 0)
    found = estimated(tiny_checkpoint, model={"image_size": 32})
    assert found == estimated(tmp_path)
    assert found.cache_bytes == 4 * estimated(tiny_checkpoint).cache_bytes


def test_resizing_alone_keeps_the_type_of_a_checkpoint_for_torch(foreign_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model.AXIS.apply({"path": str(foreign_checkpoint), "image_size": 448}, tmp_path, tmp_path, {}, 0)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    found = estimated(foreign_checkpoint, model={"image_size": 448}, runtime={"name": "torch"})
    assert found.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_tuning_changes_no_size(tiny_checkpoint: Path) -> None:
    assert "lora" in tuning.AXIS.domains["method"].values
    assert estimated(tiny_checkpoint, tuning={"method": "lora"}) == estimated(tiny_checkpoint)
