from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from spaces.axes import Samples, Value, visual_tokens
from spaces.axes.quantization import AXIS, LEVELS, METHODS, calibration_inputs
from spaces.errors import StageFailed
from spaces.signal_stack import kept_signal_stack
from tests.spaces.axes.conftest import Apply, contents, full_choice, genai_answers
from tests.spaces.axes.graph_weights import linears, storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

INT4: Mapping[str, Value] = {"weights": "int4", "group_size": 32}
CHOICES: tuple[Mapping[str, Value], ...] = (
    {"weights": "int8"},
    {"vision": "int4", "projector": "int8", "mode": "asym", "group_size": 32},
    INT4,
    {**INT4, "method": "gptq", "mode": "asym", "ratio": 0.5},
    {**INT4, "method": "awq_scale_estimation", "mode": "asym", "ratio": 0.5, "projector": "int4"},
)
KINDS = {"fp16": "f16", "int8": "i8", "int4": "i4"}


def _storages(folder: Path, graph: str, part: str) -> set[str]:
    """The types that the layers whose names have this part are stored in."""
    return {storage(node) for name, node in linears(folder, graph).items() if part in name}


def test_what_of_the_language_model_gets_which_bits(exported: Path, apply: Apply) -> None:
    int4 = apply(AXIS, exported, weights="int4", group_size=64)
    assert sum("_proj" in name for name in linears(int4, "language")) == 14
    assert _storages(int4, "language", "_proj") == {"i4"}
    assert _storages(int4, "language", "lm_head") == {"u8"}
    assert _storages(int4, "text_embeddings", "embedding") == {"u8"}
    assert _storages(int4, "vision_embeddings", "layers") == {"f16"}
    int8 = apply(AXIS, exported, "int8", weights="int8")
    assert _storages(int8, "language", "_proj") == _storages(int8, "language", "lm_head") == {"i8"}
    assert _storages(int8, "text_embeddings", "embedding") == {"u8"}


@pytest.mark.parametrize(
    ("tower", "vision", "projector"),
    [("exported", v, p) for v in LEVELS for p in LEVELS if (v, p) != ("fp16", "fp16")]
    + [("clip_exported", "int4", "int8"), ("clip_exported", "fp16", "int4")],
)
def test_vision_encoder_and_projector_get_their_own_bits(
    request: pytest.FixtureRequest, apply: Apply, tower: str, vision: str, projector: str
) -> None:
    source = request.getfixturevalue(tower)
    folder = apply(AXIS, source, vision=vision, projector=projector, group_size=32)
    assert _storages(folder, "vision_embeddings", "encoder.layers") == {KINDS[vision]}
    assert _storages(folder, "vision_embeddings", "multi_modal_projector") == {KINDS[projector]}
    patches = {"fp16": "f16", "int8": "i8", "int4": "u8"}
    assert _storages(folder, "vision_embeddings", "patch_embedding") == {patches[vision]}
    unchanged, found = contents(source), contents(folder)
    assert {name for name in found if found[name] != unchanged[name]} == {
        "openvino_vision_embeddings_model.bin",
        "openvino_vision_embeddings_model.xml",
    }


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
    choices: dict[str, dict[str, Value]] = {
        "asym": {"weights": "int8", "mode": "asym"},
        "sym": {"weights": "int8"},
        "int4": {"weights": "int4", "group_size": 64},
    }
    plain = _logits(exported, exported, axis_samples)
    change = {
        name: np.abs(_logits(apply(AXIS, exported, name, **choice), exported, axis_samples) - plain).mean()
        for name, choice in choices.items()
    }
    assert 0 < change["asym"] < 0.02 * plain.std()
    assert change["asym"] < change["sym"] < 0.03 * plain.std()
    assert change["sym"] < change["int4"]


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


def test_each_method_gives_its_own_weights_and_all_but_rtn_read_samples(exported: Path, apply: Apply) -> None:
    graphs = {
        method: contents(apply(AXIS, exported, method, **INT4, method=method))["openvino_language_model.bin"]
        for method in METHODS
    }
    assert len(set(graphs.values())) == len(METHODS) == 5
    for method in METHODS:
        assert AXIS.reads(full_choice(AXIS, {**INT4, "method": method})) == (
            () if method == "rtn" else ("calibration",)
        )
        assert AXIS.reads(full_choice(AXIS, {"vision": "int4", "weights": "int8", "method": method})) == ()


def test_a_method_without_samples_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="method gptq needs the split `calibration`"):
        AXIS.apply(full_choice(AXIS, {**INT4, "method": "gptq"}), exported, tmp_path, {}, 0)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"weights": "int4", "group_size": 128}, r"128 does not divide the language .*\(64, 128\): take 64"),
        ({"vision": "int4", "group_size": 64}, r"64 does not divide the vision encoder's .*\(64, 96\): take 32"),
        ({"projector": "int4", "group_size": 128}, r"128 does not divide the projector's .*\(64\): take 64"),
    ],
)
def test_a_group_that_does_not_fit_names_one_that_does(
    clip_exported: Path, apply: Apply, choice: Mapping[str, Value], said: str
) -> None:
    with pytest.raises(StageFailed, match=said):
        apply(AXIS, clip_exported, **choice)


def test_nothing_quantized_changes_nothing() -> None:
    assert not AXIS.changes(full_choice(AXIS, {"mode": "asym", "group_size": 128}))
    assert all(AXIS.changes(full_choice(AXIS, {part: "int8"})) for part in ("weights", "vision", "projector"))


def test_a_checkpoint_is_refused(tiny_checkpoint: Path, apply: Apply) -> None:
    with pytest.raises(StageFailed, match="needs runtime"):
        apply(AXIS, tiny_checkpoint, weights="int8")


@pytest.mark.parametrize("method", ["attention", "merge"])
def test_it_follows_a_cut_vision_graph(exported: Path, apply: Apply, tiny_images: list[Path], method: str) -> None:
    cut = apply(visual_tokens.AXIS, exported, "cut", keep=0.5, method=method)
    small = apply(AXIS, cut, "small", **INT4, method="awq_scale_estimation", vision="int8", projector="int4")
    plain, answers = (genai_answers(folder, tiny_images[:1], ["what is this ?"]) for folder in (exported, small))
    assert answers[0][1] == plain[0][1] - 2
