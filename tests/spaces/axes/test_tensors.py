import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.axes.checkpoint import load_strict
from spaces.axes.files import link_all, write_json
from spaces.axes.model import check_model_folder
from spaces.axes.tensors import (
    TEXT_DEFAULTS,
    VISION_DEFAULTS,
    expected,
    plain_name,
    text_config,
    vision_config,
    visual_token_count,
)
from spaces.errors import BadInput
from tests.foreign import build_foreign

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"text": "llama", "text_fields": {"attention_bias": True, "mlp_bias": True, "head_dim": 20}},
    {"text": "mistral", "text_fields": {"num_key_value_heads": 1, "tie_word_embeddings": False}},
    {"text": "qwen2", "text_fields": {"num_key_value_heads": 6}, "multimodal_projector_bias": False},
    {"vision": "siglip_vision_model", "vision_fields": {"patch_size": 12}},
    {"vision": "siglip_vision_model", "vision_fields": {"vision_use_head": False}, "text_fields": {"head_dim": 8}},
]


def meta_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(**config))
    tied = bool(model.config.tie_word_embeddings)
    shapes = {name.removeprefix("model."): tuple(one.shape) for name, one in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not (tied and name == "lm_head.weight")}


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("configs")
    return [build_foreign(folder / str(number), **variant) for number, variant in enumerate(VARIANTS)]


@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_the_tensors_are_those_that_transformers_builds_and_saves(configs: list[Path], number: int) -> None:
    from safetensors.numpy import load_file

    config = json.loads((configs[number] / "config.json").read_text())
    assert expected(config) == meta_shapes(config)
    saved = load_file(configs[number] / "model.safetensors")
    assert {plain_name(name): one.shape for name, one in saved.items()} == expected(config)
    check_model_folder(configs[number])


@pytest.mark.parametrize("kind", list(TEXT_DEFAULTS))
def test_text_defaults_are_those_of_transformers(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    filled, theirs = text_config({"text_config": {"model_type": kind}}), CONFIG_MAPPING[kind]()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    assert all(filled[name] == getattr(theirs, name) for name in (*names, "tie_word_embeddings"))
    assert (filled["num_key_value_heads"] or filled["num_attention_heads"]) == theirs.num_key_value_heads


@pytest.mark.parametrize("kind", list(VISION_DEFAULTS))
def test_vision_defaults_are_those_of_transformers(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    filled, theirs = vision_config({"vision_config": {"model_type": kind}}), CONFIG_MAPPING[kind]()
    assert all(value == getattr(theirs, name, value) for name, value in filled.items())
    assert {"hidden_size", "image_size", "patch_size", "num_hidden_layers"} <= set(filled)


def test_a_config_without_parts_is_llava_as_transformers_has_it() -> None:
    from transformers import LlavaConfig

    theirs = LlavaConfig()
    assert all(value == getattr(theirs.vision_config, name, value) for name, value in vision_config({}).items())
    assert visual_token_count({}) == theirs.image_seq_length == 576
    assert visual_token_count({"vision_feature_select_strategy": "full"}) == 577


@pytest.fixture
def copied(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def _rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    from safetensors.numpy import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


def _renamed(weights: Weights, before: str, after: str) -> Weights:
    return {name.replace(before, after): one for name, one in weights.items()}


NORM = "model.language_model.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: _renamed(weights, "linear_2.bias", "linear_two.bias"), r"missing multi_modal_projector\."),
        (lambda weights: _renamed(weights, "linear_2.bias", "linear_two.bias"), r"unexpected .*linear_two\.bias"),
        (
            lambda weights: {name: one for name, one in weights.items() if "gate_proj" not in name},
            "missing .*gate_proj",
        ),
        (lambda weights: weights | {NORM: np.ones(63, np.float16)}, r"another shape .*norm\.weight \[63\] for \[64\]"),
        (lambda weights: weights | {NORM: np.ones(64, np.int8)}, r"norm\.weight is of type I8"),
        (lambda weights: weights | {"language_model.norm.weight": np.ones(64, np.float16)}, r"norm\.weight .* twice"),
        (lambda weights: weights | {"model.adapter.weight": np.ones(64, np.float16)}, r"unexpected model\.adapter"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(
    copied: Path, change: Callable[[Weights], Weights], message: str
) -> None:
    _rewrite(copied, change)
    with pytest.raises(BadInput, match=message) as refused:
        check_model_folder(copied)
    assert str(copied) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model.language_model.model.", "model.language_model."),
        ("model.", ""),
        ("model.language_model.lm_head", "lm_head"),
    ],
)
def test_names_of_earlier_and_later_savers_are_known(copied: Path, before: str, after: str) -> None:
    _rewrite(
        copied,
        lambda weights: {
            after + name.removeprefix(before) if name.startswith(before) else name: one for name, one in weights.items()
        },
    )
    check_model_folder(copied)
    load_strict(copied)


def test_a_head_beside_tied_embeddings_is_allowed(foreign_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(foreign_checkpoint, tmp_path / "model"))
    name = "model.language_model.model.embed_tokens.weight"
    _rewrite(folder, lambda weights: weights | {"language_model.lm_head.weight": weights[name].copy()})
    check_model_folder(folder)
    load_strict(folder)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_foreign(tmp_path_factory.mktemp("sharded") / "model", shard_size="200KB")


def test_several_shards_are_read_and_a_missing_one_is_named(sharded: Path, tmp_path: Path) -> None:
    check_model_folder(sharded)
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    shard = sorted(folder.glob("model-*.safetensors"))[2]
    shard.unlink()
    with pytest.raises(BadInput, match=f"lacks the shard {shard.name}"):
        check_model_folder(folder)


def test_an_index_that_does_not_fit_its_shards_is_refused(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, shard = next((name, shard) for name, shard in index["weight_map"].items() if name.endswith("norm.weight"))
    index["weight_map"]["model.ghost"] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(BadInput, match=rf"names model\.ghost in {shard}, which does not hold it"):
        check_model_folder(folder)
    del index["weight_map"]["model.ghost"], index["weight_map"][name]
    path.write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"which model\.safetensors\.index\.json does not name"):
        check_model_folder(folder)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), value=ANYTHING)
def test_whatever_stands_in_the_json_files_the_refusal_is_one_sentence(
    data: st.DataObject, value: Any, tiny_checkpoint: Path
) -> None:
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json", "processor_config.json"]))
    content = json.loads((tiny_checkpoint / name).read_text())
    place = content
    field = data.draw(st.sampled_from([*content, "image_processor"]))
    if isinstance(content.get(field), dict) and data.draw(st.booleans()):
        place, field = content[field], data.draw(st.sampled_from(list(content[field])))
    place[field] = value
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        link_all(tiny_checkpoint, folder, [one.name for one in tiny_checkpoint.iterdir()])
        write_json(folder / name, content)
        message = ""
        try:
            check_model_folder(folder)
        except BadInput as refused:
            message = str(refused)
        assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text_config": {"model_type": "gemma2"}},
            "text_config.model_type is 'gemma2', but only llama, mistral, qwen2",
        ),
        ({"vision_config": {"model_type": "dinov2"}}, "vision_config.model_type is 'dinov2'"),
        ({"quantization_config": {"bits": 4}}, "before quantization"),
        ({"vision_feature_layer": [-1, -2]}, r"vision_feature_layer \[-1, -2\]"),
        ({"vision_feature_layer": -3}, "vision_feature_layer -3 is not one layer of the tower's 1"),
        ({"text_config": {"hidden_size": "wide"}}, "a field of the wrong kind"),
        ({"text_config": [1]}, "a field of the wrong kind"),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_name(copied: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) and name in config else value
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=message):
        check_model_folder(copied)
