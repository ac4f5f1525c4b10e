"""Estimates of bytes against real exports of the example's models."""

import json
import os
from pathlib import Path

import pytest

from spaces.axes import Value, pruning, quantization, runtime
from spaces.estimate import Estimate, estimate
from spaces.plugins import builtin
from spaces.shape import read_shape

MODELS = Path(__file__).resolve().parents[2] / "examples" / "inspection" / "models"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "ffn", "quantized"),
    [
        ("inspection-n", 0.0, {}),
        ("inspection-n", 0.0, {"weights": "int8"}),
        ("inspection-n", 0.0, {"weights": "int4", "group_size": 32}),
        ("inspection-l", 0.5, {"weights": "int4", "group_size": 64}),
    ],
)
def test_a_bundle_weighs_what_was_estimated(
    model: str, ffn: float, quantized: dict[str, Value], tmp_path: Path
) -> None:
    choices = {axis.name: {name: domain.default for name, domain in axis.domains.items()} for axis in builtin()}
    choices["pruning"]["ffn"] = ffn
    choices["quantization"] |= quantized
    folder = MODELS / model
    expected = estimate(read_shape(folder), choices).weight_bytes
    for axis in (pruning.AXIS, runtime.AXIS, quantization.AXIS):
        if axis.changes(choices[axis.name]):
            target = tmp_path / axis.name
            target.mkdir()
            axis.apply(choices[axis.name], folder, target, {}, 0)
            folder = target
    weights = [path for path in folder.glob("*.bin") if "token" not in path.name]
    assert len(weights) == 3
    real = sum(path.stat().st_size for path in weights)
    print(f"{model} ffn {ffn:g} {quantized}: estimated {expected}, real {real}, {expected / real - 1:+.2%}")
    assert expected == pytest.approx(real, rel=0.05)


def estimated(folder: Path, **quantized: Value) -> Estimate:
    choices = {axis.name: {name: domain.default for name, domain in axis.domains.items()} for axis in builtin()}
    choices["quantization"] |= quantized
    return estimate(read_shape(folder), choices)


@pytest.mark.slow
def test_a_model_of_real_size_is_estimated_from_headers_alone(tmp_path: Path) -> None:
    """transformers' default config is that of LLaVA 1.5 7B, which reads the features before the last vision layer."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(LlavaConfig())
    header: dict[str, object] = {}
    place = 0
    for name, weight in whole.state_dict().items():
        header[name] = {
            "dtype": "F16",
            "shape": list(weight.shape),
            "data_offsets": [place, place + 2 * weight.numel()],
        }
        place += 2 * weight.numel()
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(tmp_path / "model.safetensors", 8 + len(text) + place)  # a hole: no weights are stored
    whole.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert sum(shape.parameters.values()) == sum(weight.numel() for weight in whole.parameters())
    assert shape.visual_tokens == 24 * 24
    last = sum(w.numel() for n, w in whole.named_parameters() if "encoder.layers.23." in n or "post_layernorm" in n)
    assert estimated(tmp_path).weight_bytes == 2 * (sum(shape.parameters.values()) - last)
    int4 = estimated(tmp_path, weights="int4", group_size=128)
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert estimated(tmp_path).weight_bytes - int4.weight_bytes == pytest.approx(
        linear * (2 - 0.5 - 2 / 128) + 2 * 32000 * 4096, rel=0.001
    )
    assert int4.cache_bytes == 2 * 32 * 4096 * 576 * 4
