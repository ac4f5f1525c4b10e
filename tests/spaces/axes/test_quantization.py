from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spaces.axes import Samples, Value, visual_tokens
from spaces.axes.quantization import AXIS, calibration_inputs, nearest_group
from spaces.errors import StageFailed
from spaces.signal_stack import kept_signal_stack
from tests.spaces.axes.conftest import Apply, contents, full_choice, genai_answers

if TYPE_CHECKING:
    from numpy.typing import NDArray

GATE = "layers.0.mlp.gate_proj"
CHOICES: tuple[Mapping[str, Value], ...] = (
    {"weights": "int8"},
    {"weights": "int4", "group_size": 32},
    {"weights": "int4", "group_size": 64},
    {"weights": "int4", "group_size": 32, "calibrated": True},
)


def _linears(folder: Path, graph: str) -> dict[str, Any]:
    """The products with constant weights of a graph, by name."""
    import openvino

    model = openvino.Core().read_model(folder / f"openvino_{graph}_model.xml")
    return {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() in ("MatMul", "Gather")}


def _storage(node: Any) -> str:
    """The element type that the weights of a linear layer are stored in."""
    constant = node.input_value(0 if node.get_type_name() == "Gather" else 1).get_node()
    while constant.get_type_name() != "Constant":
        constant = constant.input_value(0).get_node()
    return str(constant.get_element_type().get_type_name())


def _weights(node: Any) -> "NDArray[np.float32]":
    """The (row, column) weights that a linear layer multiplies with, worked out by OpenVINO's own constant folding."""
    import openvino

    folded = openvino.Model([openvino.opset13.result(node.input_value(1))], [])
    with kept_signal_stack():
        return np.asarray(openvino.Core().compile_model(folded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0])


def _rounded_to_nearest(weights: "NDArray[np.float16]", group: int) -> "NDArray[np.float64]":
    """Symmetric int4 by hand: in each group the value of the greatest magnitude becomes -8."""
    groups = weights.astype(np.float64).reshape(len(weights), -1, group)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2, keepdims=True), axis=2)
    scale = (extreme / -8).astype(np.float16).astype(np.float64)
    return (np.clip(np.rint(groups / scale), -8, 7) * scale).reshape(weights.shape)


@pytest.mark.parametrize("group", [32, 64])
def test_int4_is_round_to_nearest_in_groups(tiny_checkpoint: Path, exported: Path, apply: Apply, group: int) -> None:
    original = next(
        tensor
        for name, tensor in load_file(tiny_checkpoint / "model.safetensors").items()
        if GATE in name and "language" in name
    )
    compressed = _linears(apply(AXIS, exported, weights="int4", group_size=group), "language")
    node = next(node for name, node in compressed.items() if GATE in name and "language" in name)
    expected = _rounded_to_nearest(original, group)
    step = np.abs(original).max() / 8
    ours = _weights(node)
    assert (np.abs(ours - expected) < 1e-2 * step).mean() > 0.995
    assert np.abs(ours - original).max() < 1.1 * step


def test_what_gets_which_bits(exported: Path, apply: Apply) -> None:
    int4 = apply(AXIS, exported, weights="int4", group_size=64)
    language, vision, text = (_linears(int4, graph) for graph in ("language", "vision_embeddings", "text_embeddings"))
    layers = {name: _storage(node) for name, node in language.items() if "layers" in name and "_proj" in name}
    assert len(layers) == 14
    assert set(layers.values()) == {"i4"}
    assert [_storage(node) for name, node in language.items() if "lm_head" in name] == ["u8"]
    assert [_storage(node) for name, node in text.items() if "embedding" in name] == ["u8"]
    assert {_storage(node) for name, node in vision.items() if "vision_tower" in name and "layers" in name} == {"u8"}
    assert {_storage(node) for name, node in vision.items() if "multi_modal_projector" in name} == {"f16"}
    int8 = _linears(apply(AXIS, exported, "int8", weights="int8"), "language")
    assert {_storage(node) for name, node in int8.items() if "_proj" in name or "lm_head" in name} == {"u8"}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_answers_and_is_the_same_twice(
    exported: Path, apply: Apply, tiny_images: list[Path], choice: Mapping[str, Value]
) -> None:
    source = contents(exported)
    once, again = (apply(AXIS, exported, name, **choice) for name in ("once", "again"))
    assert contents(once) == contents(again)
    assert contents(exported) == source
    assert contents(once).keys() == source.keys()
    plain = genai_answers(exported, tiny_images[:2], ["what is this ?"] * 2)
    answers = genai_answers(once, tiny_images[:2], ["what is this ?"] * 2)
    assert [tokens for _, tokens in answers] == [tokens for _, tokens in plain]


def test_int8_keeps_the_logits(exported: Path, apply: Apply, axis_samples: Samples) -> None:
    plain, int8, int4 = (
        _logits(folder, exported, axis_samples)
        for folder in (
            exported,
            apply(AXIS, exported, "int8", weights="int8"),
            apply(AXIS, exported, "int4", weights="int4", group_size=64),
        )
    )
    assert 0 < np.abs(int8 - plain).mean() < 0.02 * plain.std()
    assert np.abs(int4 - plain).mean() > np.abs(int8 - plain).mean()


def _logits(folder: Path, embedder: Path, samples: Samples) -> "NDArray[np.float32]":
    """Logits at every token of the calibration sequences, embedded by one folder and continued by another."""
    import openvino

    graph = folder / "openvino_language_model.xml"
    found = []
    with kept_signal_stack():
        model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = model.create_infer_request()
        for inputs in calibration_inputs(embedder, samples["calibration"]):
            request.reset_state()
            found.append(np.array(request.infer(inputs)["logits"][0]))
    return np.concatenate(found)


@pytest.mark.filterwarnings("ignore")
def test_calibration_inputs_give_torch_s_logits(tiny_checkpoint: Path, exported: Path, axis_samples: Samples) -> None:
    """Prompt, visual tokens and answer are laid out as transformers does: equal logits at every place."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer

    from spaces.axes.checkpoint import load_strict

    model, words = load_strict(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)
    expected = []
    for sample in axis_samples["calibration"]:
        text = f"<bos>user : {'<image>' * 4}\n{sample.question} assistant : {sample.answers[0]}<eos>"
        ids = words(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        pixels = torch.from_numpy(np.asarray(Image.open(sample.image), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
        with torch.no_grad():
            expected.append(model(input_ids=ids, pixel_values=pixels[None]).logits[0].numpy())
    np.testing.assert_allclose(_logits(exported, exported, axis_samples), np.concatenate(expected), atol=2e-3)


def test_calibration_changes_the_weights_and_reads_its_split(exported: Path, apply: Apply, tmp_path: Path) -> None:
    choice: dict[str, Value] = {"weights": "int4", "group_size": 32}
    plain, calibrated = (
        contents(apply(AXIS, exported, name, **choice, calibrated=calibrated))["openvino_language_model.bin"]
        for name, calibrated in (("plain", False), ("calibrated", True))
    )
    assert plain != calibrated
    assert AXIS.reads({**choice, "calibrated": True}) == ("calibration",)
    assert AXIS.reads({**choice, "calibrated": False}) == AXIS.reads({"weights": "int8", "calibrated": True}) == ()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageFailed, match="split `calibration`"):
        AXIS.apply(full_choice(AXIS, {**choice, "calibrated": True}), exported, tmp_path / "empty", {}, 0)


def test_a_group_that_does_not_fit_names_one_that_does(exported: Path, apply: Apply) -> None:
    with pytest.raises(StageFailed, match=r"group_size 128 does not divide .*\(64, 128\): take 64"):
        apply(AXIS, exported, weights="int4", group_size=128)


@pytest.mark.parametrize(
    ("widths", "wanted", "nearest"),
    [([192, 512], 128, 64), ([256, 768], 128, 128), ([96, 256], 128, 32), ([48], 32, None), ([128], 32, 32)],
)
def test_the_nearest_group_by_hand(widths: list[int], wanted: int, nearest: int | None) -> None:
    assert nearest_group(widths, wanted) == nearest


def test_a_checkpoint_is_refused(tiny_checkpoint: Path, apply: Apply) -> None:
    with pytest.raises(StageFailed, match="needs runtime"):
        apply(AXIS, tiny_checkpoint, weights="int8")


def test_it_follows_a_cut_vision_graph(exported: Path, apply: Apply, tiny_images: list[Path]) -> None:
    cut = apply(visual_tokens.AXIS, exported, "cut", keep=0.5)
    small = apply(AXIS, cut, "small", weights="int4", group_size=32, calibrated=True)
    plain, answers = (genai_answers(folder, tiny_images[:1], ["what is this ?"]) for folder in (exported, small))
    assert answers[0][1] == plain[0][1] - 2
