"""Shapes read from files against torch, and what pruning leaves of them against what the axis writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spaces.axes import pruning
from spaces.axes.checkpoint import load_strict
from spaces.errors import BadInput
from spaces.pruned import pruned
from spaces.shape import read_shape

SHARES = [knob for knob, domain in pruning.AXIS.domains.items() if domain.kind == "float"]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return load_strict(tiny_checkpoint, "float16")


def test_every_parameter_is_counted_in_its_part(tiny_checkpoint: Path, model: Any) -> None:
    shape = read_shape(tiny_checkpoint)
    inner = model.model
    embeddings = inner.language_model.embed_tokens.weight.numel()
    assert shape.parameters == {
        "vision": inner.vision_tower.num_parameters(),
        "projector": sum(weight.numel() for weight in inner.multi_modal_projector.parameters()),
        "embeddings": embeddings,
        "language": inner.language_model.num_parameters() - embeddings,
        "head": model.lm_head.weight.numel(),
    }
    assert not shape.tied


def test_towers_are_those_of_the_loaded_model(tiny_checkpoint: Path, model: Any) -> None:
    shape, text, vision = read_shape(tiny_checkpoint), model.config.text_config, model.config.vision_config
    language = shape.language
    assert (language.width, language.layers, language.ffn) == (
        text.hidden_size, text.num_hidden_layers, text.intermediate_size,
    )  # fmt: skip
    assert (language.heads, language.kv_heads, language.head_dim) == (
        text.num_attention_heads, text.num_key_value_heads, text.head_dim,
    )  # fmt: skip
    assert (shape.vision.width, shape.vision.layers, shape.vision.heads) == (64, 1, vision.num_attention_heads)
    assert (shape.image_size, shape.patch_size, shape.visual_tokens) == (16, 8, 4)


def test_sizes_come_from_the_tensors_where_config_leaves_defaults_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        kept = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")
        config[part] = {name: config[part][name] for name in kept if name in config[part]}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_shape(folder) == read_shape(tiny_checkpoint)


def test_shards_are_one_model_and_tied_embeddings_one_tensor(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    model = load_strict(tiny_checkpoint, "float16")
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    tied = LlavaForConditionalGeneration(model.config).half()
    tied.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    shape = read_shape(tmp_path)
    assert shape.tied
    assert shape.parameters["head"] == 0
    assert sum(shape.parameters.values()) == sum(weight.numel() for weight in tied.parameters())


def changed(checkpoint: Path, folder: Path, part: str | None = None, **fields: Any) -> Path:
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(fields)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_either_part_of_the_config_ties_the_embeddings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = changed(tiny_checkpoint, tmp_path, "text_config", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    head, embeddings = (next(name for name in tensors if part in name) for part in ("lm_head", "embed_tokens"))
    save_file(tensors | {head: tensors[embeddings]}, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_strict(folder, "float16")
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    shape = read_shape(folder)
    assert shape.tied
    assert sum(shape.parameters.values()) == sum(weight.numel() for weight in loaded.parameters())


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_visual_tokens_are_those_that_the_model_projects(
    strategy: str, foreign_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    folder = changed(foreign_checkpoint, tmp_path, vision_feature_select_strategy=strategy)
    loaded = load_strict(folder, "float32")
    with torch.no_grad():
        features = loaded.get_image_features(torch.zeros(1, 3, 336, 336)).pooler_output[0]
    assert read_shape(folder).visual_tokens == len(features)


def test_a_config_without_a_tower_means_that_of_transformers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import LlavaConfig

    folder = changed(tiny_checkpoint, tmp_path, vision_config=None)
    assert read_shape(folder).vision.heads == LlavaConfig().vision_config.num_attention_heads


@pytest.mark.parametrize("heads", [0, None, "many"])
def test_heads_that_are_no_number_are_refused(heads: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json: a field is of the wrong kind"):
        read_shape(changed(tiny_checkpoint, tmp_path, "vision_config", num_attention_heads=heads))


@pytest.mark.parametrize("knob", SHARES)
def test_what_pruning_leaves_is_what_the_axis_writes(knob: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    choice = {name: domain.default for name, domain in pruning.AXIS.domains.items()} | {knob: 0.5}
    pruning.AXIS.apply(choice, tiny_checkpoint, tmp_path, {}, 0)
    written, worked_out = read_shape(tmp_path), pruned(read_shape(tiny_checkpoint), choice)
    if knob != "vision_heads":  # pruned vision heads stay in the checkpoint, as zeros
        assert worked_out.parameters == written.parameters
        assert (worked_out.language, worked_out.vision) == (written.language, written.vision)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "config.json").write_text("{"), ["config.json", "not readable JSON"]),
        (lambda f: (f / "config.json").unlink(), ["config.json", "missing"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 40), ["model.safetensors", "no valid safetensors"]),
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
    ],
)
def test_a_damaged_folder_is_refused(tiny_checkpoint: Path, tmp_path: Path, damage: Any, words: list[str]) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_checkpoint, folder)
    damage(folder)
    with pytest.raises(BadInput) as refusal:
        read_shape(folder)
    assert all(word in str(refusal.value) for word in words)


def test_a_folder_without_the_layout_is_refused(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(BadInput, match="lacks tensors of the LLaVA layout"):
        read_shape(tmp_path)
