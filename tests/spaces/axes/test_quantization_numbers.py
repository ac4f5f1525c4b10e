"""The quantized weights against NumPy, written from the published formulas and not from NNCF's code.

Independent: the original weights come from the safetensors, activations from the uncompressed graph; the weights under
test are what OpenVINO's constant folding makes of the compressed constants and scales.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from spaces.axes import Samples, Value
from spaces.axes.quantization import AXIS, calibration_inputs
from tests.spaces.axes.conftest import Apply
from tests.spaces.axes.graph_weights import layer, layer_inputs, linears, storage, weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYERS = [
    ("weights", "language", "language_model.layers.0.mlp.gate_proj"),
    ("vision", "vision_embeddings", "encoder.layers.0.mlp.fc1"),
    ("projector", "vision_embeddings", "multi_modal_projector.linear_2"),
]
UP, DOWN = "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"


def _original(checkpoint: Path, part: str) -> "NDArray[np.float64]":
    """The weights of the one layer whose name has the last three words of ``part``, from the checkpoint."""
    words = part.replace("language_model.", "")
    (found,) = (
        tensor
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
        if name.endswith(f"{words}.weight") and ("vision" in name) == ("encoder" in part)
    )
    return found.astype(np.float64)


def _half(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return values.astype(np.float16).astype(np.float64)


def _rounded(values: "NDArray[np.float64]", group: int, bits: int, mode: str) -> "NDArray[np.float64]":
    """Round to nearest in groups of a row, with fp16 scales.

    sym: the value of the greatest magnitude becomes the lowest integer. asym: the range of the group and zero is cut
    into ``2 ** bits - 1`` steps, the zero point is an integer.
    """
    groups = values.reshape(len(values), -1, group)
    if mode == "sym":
        lowest = -(2 ** (bits - 1))
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2, keepdims=True), axis=2)
        scale, zero, highest = extreme / lowest, np.float64(0), -lowest - 1
    else:
        lowest, highest = 0, 2**bits - 1
        low, high = (np.minimum(groups.min(axis=2), 0)[..., None], np.maximum(groups.max(axis=2), 0)[..., None])
        scale = (high - low) / highest
        zero = np.rint(-low / scale)
    integers = np.clip(np.rint(groups / scale) + zero, lowest, highest)
    return np.asarray((integers - zero) * _half(scale)).reshape(values.shape)


@pytest.mark.parametrize("mode", ["sym", "asym"])
@pytest.mark.parametrize(("level", "group"), [("int8", 0), ("int4", 32), ("int4", 64)])
def test_round_to_nearest_of_every_part(
    tiny_checkpoint: Path, exported: Path, apply: Apply, level: str, group: int, mode: str
) -> None:
    choice: dict[str, Value] = {"weights": level, "vision": level, "projector": level, "mode": mode}
    folder = apply(AXIS, exported, **choice, **({"group_size": group} if group else {}))
    for _, graph, part in LAYERS:
        node, original = layer(folder, graph, part), _original(tiny_checkpoint, part)
        kinds = {"int8sym": "i8", "int8asym": "u8", "int4sym": "i4", "int4asym": "u4"}
        assert storage(node) == kinds[level + mode], part
        expected = _rounded(original, group or original.shape[1], int(level[3:]), mode)
        step = np.ptp(original) / 2 ** int(level[3:])
        assert (np.abs(weights(node) - expected) < 0.1 * step).mean() > 0.995, part


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_ratio_is_the_greatest_share_at_int4(tiny_checkpoint: Path, exported: Path, apply: Apply, share: float) -> None:
    """By hand: without samples, NNCF gives int4 in turn to the layers whose worst row loses most by int8."""
    folder = apply(AXIS, exported, weights="int4", group_size=32, ratio=share)
    nodes = {name: node for name, node in linears(folder, "language").items() if "_proj" in name}
    losses, sizes = {}, {}
    for name in nodes:
        original = _original(tiny_checkpoint, name.split("/")[0].split("model.layers.")[1].join(("layers.", "")))
        error = (_rounded(original, original.shape[1], 8, "asym") - original) ** 2
        losses[name], sizes[name] = error.mean(axis=1).max(), original.size
    expected: set[str] = set()
    for name in sorted(losses, key=losses.__getitem__, reverse=True):
        if share < 1 and sum(sizes[each] for each in (*expected, name)) / sum(sizes.values()) >= share:
            break
        expected.add(name)
    assert {name for name, node in nodes.items() if storage(node) == "i4"} == expected
    assert {storage(node) for name, node in nodes.items() if name not in expected} <= {"u8"}


def _awq_scales(rows: "NDArray[np.float64]", samples: "list[NDArray[np.float64]]", group: int) -> "NDArray[np.float64]":
    """Activation-aware scales by grid search (AWQ, section 3.2), in the form that NNCF documents for itself.

    The group with the channel of greatest mean activation is scaled by that activation to the power of alpha, with the
    alpha of 0, 0.01 ... 0.99 that changes the group's output least when its rows are rounded to int4; the mean over a
    sample's tokens stands for the sample.
    """
    means = np.stack([sample.mean(axis=0) for sample in samples], axis=1)  # (channel, sample)
    magnitude = np.abs(means).max(axis=1)
    first = int(magnitude.argmax()) // group * group
    cut = slice(first, first + group)
    base = np.clip(magnitude[cut], np.quantile(magnitude[cut], 0.1), 100)
    whole = rows[:, cut] @ means[cut]
    errors = {}
    for step in range(100):
        scale = base ** (step / 100)
        rounded = _rounded(rows[:, cut] * scale, group, 4, "sym")
        errors[step] = np.abs(rounded @ (means[cut] / scale[:, None]) - whole).mean()
    scales = np.ones(rows.shape[1])
    scales[cut] = base ** (min(errors, key=errors.__getitem__) / 100)
    return scales


def test_awq_scales_and_the_weights_that_they_give(
    tiny_checkpoint: Path, exported: Path, apply: Apply, axis_samples: Samples
) -> None:
    """Independent: the search over alpha and the rounding are ours.

    Columns of the FFN's last layer are scaled up, the rows of its up projection that feed them are scaled down by the
    same, which rounding in rows does not see: so the scales in the graph are the ratio of the up projection's rows
    without and with AWQ, and the product is that of the original weights before rounding.
    """
    plain, folder = (
        apply(AXIS, exported, method, weights="int4", group_size=32, method=method) for method in ("rtn", "awq")
    )
    feeds = list(calibration_inputs(exported, axis_samples["calibration"]))
    original, inputs = _original(tiny_checkpoint, DOWN), layer_inputs(exported, [DOWN], feeds)[DOWN]
    expected = _awq_scales(original, inputs, 32)
    without, with_awq = (weights(layer(each, "language", UP)) for each in (plain, folder))
    scales = np.array([np.median(a[a != 0] / b[a != 0]) for a, b in zip(without, with_awq, strict=True)])
    np.testing.assert_allclose(scales, expected, rtol=2e-3)
    assert np.ptp(expected) > 0.05
    loudness, changed = np.abs(np.stack([tokens.mean(axis=0) for tokens in inputs])).max(axis=0), expected != 1
    assert np.corrcoef(np.log(scales[changed]), np.log(loudness[changed]))[0, 1] > 0.9
    rounded = _rounded(_half(original * expected), 32, 4, "sym")
    assert (np.abs(weights(layer(folder, "language", DOWN)) - rounded) < 0.1 * np.ptp(rounded) / 16).mean() > 0.99


@pytest.mark.parametrize("mode", ["sym", "asym"])
def test_gptq_loses_less_of_a_layer_s_output_than_rounding(
    tiny_checkpoint: Path, exported: Path, apply: Apply, axis_samples: Samples, mode: str
) -> None:
    """Squared output error over the calibration tokens, of the layers whose inputs quantization has not changed yet."""
    names = [f"layers.0.self_attn.{part}_proj" for part in "qkv"]  # of one input
    feeds = list(calibration_inputs(exported, axis_samples["calibration"]))
    tokens = np.concatenate(layer_inputs(exported, names[:1], feeds)[names[0]])
    lost = {}
    for method in ("rtn", "gptq"):
        folder = apply(AXIS, exported, method, weights="int4", group_size=32, method=method, mode=mode)
        for name in names:
            change = weights(layer(folder, "language", name)) - _original(tiny_checkpoint, name)
            lost[method, name] = ((tokens @ change.T) ** 2).sum()
    for name in names:
        assert 0 < lost["gptq", name] < 0.8 * lost["rtn", name]


def test_scale_estimation_loses_no_more_of_any_group_s_output_than_rounding(
    tiny_checkpoint: Path, exported: Path, apply: Apply, axis_samples: Samples
) -> None:
    """What it minimises: for each row and group, the squared output error over the samples' mean activations."""
    name, group = "layers.0.self_attn.q_proj", 32
    feeds = list(calibration_inputs(exported, axis_samples["calibration"]))
    means = np.stack([tokens.mean(axis=0) for tokens in layer_inputs(exported, [name], feeds)[name]], axis=1)
    lost = {}
    for method in ("rtn", "scale_estimation"):
        folder = apply(AXIS, exported, method, weights="int4", group_size=group, method=method)
        change = weights(layer(folder, "language", name)) - _original(tiny_checkpoint, name)
        blocks = [change[:, at : at + group] @ means[at : at + group] for at in range(0, len(means), group)]
        lost[method] = np.stack([(block**2).mean(axis=1) for block in blocks])
    rtn, estimated = lost["rtn"], lost["scale_estimation"]
    assert (estimated <= 1.01 * rtn + 1e-3 * rtn.mean()).all()
    assert estimated.sum() < 0.7 * rtn.sum()
