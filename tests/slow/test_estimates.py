"""Estimates of bytes against real exports of the example's models."""

from pathlib import Path

import pytest

from spaces.axes import Value, pruning, quantization, runtime
from spaces.estimate import estimate
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
