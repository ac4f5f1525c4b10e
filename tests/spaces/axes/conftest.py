"""What the axis tests share: full choices, samples over the tiny images, a tiny export and its answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from spaces.axes import Axis, Choice, Samples, Value, runtime
from spaces.sample import Sample
from spaces.signal_stack import kept_signal_stack

Apply: TypeAlias = Callable[..., Path]
COLOURS = ("red", "green", "blue", "ball", "box", "shape", "colour", "this")
QUESTION = "what colour is this ?"
CLIP_SIDE = 32


def full_choice(axis: Axis, choice: Choice) -> dict[str, Value]:
    return {knob: choice.get(knob, domain.default) for knob, domain in axis.domains.items()}


@pytest.fixture(scope="session")
def axis_samples(tiny_images: list[Path]) -> Samples:
    rows = tuple(
        Sample(id=str(number), image=image, question=QUESTION, answers=(COLOURS[number],))
        for number, image in enumerate(tiny_images)
    )
    return {"train": rows, "calibration": rows}


@pytest.fixture
def apply(tmp_path: Path, axis_samples: Samples) -> Apply:
    """Applies an axis to a folder and gives the new folder."""

    def run(axis: Axis, source: Path, folder: str = "target", seed: int = 0, **choice: Value) -> Path:
        target = tmp_path / folder
        target.mkdir()
        axis.apply(full_choice(axis, choice), source, target, axis_samples, seed)
        return target

    return run


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported")
    runtime.AXIS.apply(full_choice(runtime.AXIS, {}), tiny_checkpoint, target, {}, 0)
    return target


def _write_clip_model(folder: Path) -> None:
    """A tiny random LLaVA over a CLIP tower: 16 patches, a class token that the features leave out, two layers used."""
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig.from_pretrained(folder)
    config.vision_config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=CLIP_SIDE,
        patch_size=8,
        initializer_range=0.1,
    )
    config.image_seq_length = (CLIP_SIDE // 8) ** 2
    config.vision_feature_layer, config.vision_feature_select_strategy = -2, "default"
    torch.manual_seed(1)
    LlavaForConditionalGeneration(config).half().save_pretrained(folder)


@pytest.fixture(scope="session")
def clip_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` with a CLIP tower of 32 px: a class token, feature layer -2, strategy ``default``."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    shutil.copytree(tiny_checkpoint, folder)
    _write_clip_model(folder)
    images = json.loads((folder / "preprocessor_config.json").read_text())
    images |= {"size": {"shortest_edge": CLIP_SIDE}, "image_size": CLIP_SIDE}
    images |= {"crop_size": {"height": CLIP_SIDE, "width": CLIP_SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    layout = json.loads((folder / "processor_config.json").read_text())
    layout |= {"num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    (folder / "processor_config.json").write_text(json.dumps(layout))
    return folder


@pytest.fixture(scope="session")
def clip_exported(clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("clip_exported")
    runtime.AXIS.apply(full_choice(runtime.AXIS, {}), clip_checkpoint, target, {}, 0)
    return target


def genai_answers(folder: Path, images: list[Path], questions: list[str]) -> list[tuple[str, int]]:
    """Greedy answers of the exported folder in f32, with the number of input tokens."""
    import openvino
    import openvino_genai

    settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    with kept_signal_stack():
        pipeline = openvino_genai.VLMPipeline(str(folder), "CPU", **settings)
        config = openvino_genai.GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=2)
        answers = []
        for path, question in zip(images, questions, strict=True):
            pixels = openvino.Tensor(np.asarray(Image.open(path))[None])
            result = pipeline.generate(question, images=[pixels], generation_config=config)
            answers.append((result.texts[0].strip(), result.perf_metrics.get_num_input_tokens()))
        del pipeline
    return answers


def vision_outputs(folder: Path, pixels: Any) -> Any:
    """The (image, token, width) features that an exported folder's vision graph gives, in f32."""
    import openvino

    graph = folder / "openvino_vision_embeddings_model.xml"
    with kept_signal_stack():
        return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
