"""What tensors a LLaVA-layout config.json asks for, and what the weight files' headers hold. Reads no weights."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from spaces.errors import BadInput

Shape: TypeAlias = tuple[int, ...]

TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_key_value_heads": None},
        "mistral": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8},
        "qwen2": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_key_value_heads": 32},
    }
)
"""Fields of the language models that are supported, as transformers' configs fill them in where they are left out."""
VISION_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clip_vision_model": {"image_size": 224, "patch_size": 32},
        "siglip_vision_model": {"image_size": 224, "patch_size": 16, "vision_use_head": True},
    }
)
_TEXT_COMMON = {"num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": None, "tie_word_embeddings": False}
_VISION_COMMON = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
}
_WHOLE_TOWER = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096} | {
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_FLOATS = ("F16", "BF16", "F32", "F64")
_BUFFERS = (".position_ids", ".rotary_emb.inv_freq")
_SHOWN = 3


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's fields with defaults filled in.

    Raises:
        BadInput: the language model is of a kind that is not supported.
    """
    return _filled(config.get("text_config") or {}, "text_config", "llama", TEXT_DEFAULTS, _TEXT_COMMON)


def vision_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The vision tower's fields with defaults filled in.

    Raises:
        BadInput: the tower is of a kind that is not supported.
    """
    given = config.get("vision_config") or _WHOLE_TOWER
    return _filled(given, "vision_config", "clip_vision_model", VISION_DEFAULTS, _VISION_COMMON)


def class_tokens(vision: Mapping[str, Any]) -> int:
    """How many positions of the tower are no patches: CLIP has a class token, SigLIP has none."""
    return int(vision["model_type"] == "clip_vision_model")


def tied_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether the head is the text embeddings: where either part of the config says so, as transformers reads it."""
    return bool(config.get("tie_word_embeddings") or text_config(config)["tie_word_embeddings"])


def visual_token_count(config: Mapping[str, Any]) -> int:
    """How many places an image takes in the prompt: its patches and `other_tokens`."""
    vision = vision_config(config)
    return int((vision["image_size"] // vision["patch_size"]) ** 2 + other_tokens(config))


def other_tokens(config: Mapping[str, Any]) -> int:
    """Places of an image in the prompt beside its patches: that of the class token, less one for ``default``."""
    return class_tokens(vision_config(config)) - int(
        config.get("vision_feature_select_strategy", "default") == "default"
    )


def expected(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name and shape of every tensor of the model, named as transformers names its parameters, without ``model.``."""
    text, vision = text_config(config), vision_config(config)
    width, features = int(text["hidden_size"]), int(vision["hidden_size"])
    bias = bool(config.get("multimodal_projector_bias", True))
    shapes = dict(_language(text))
    if not tied_embeddings(config):
        shapes["lm_head.weight"] = (int(text["vocab_size"]), width)
    shapes |= {f"vision_tower.vision_model.{name}": shape for name, shape in _tower(vision)}
    for name, before in (("linear_1", features), ("linear_2", width)):
        shapes |= dict(_linear(f"multi_modal_projector.{name}", width, before, bias))
    return shapes


def check_tensors(folder: Path, config: Mapping[str, Any], weights: Iterable[Path]) -> None:
    """Compares the headers of the weight files with what the config asks for.

    Raises:
        BadInput: a file is damaged, a tensor is missing, unexpected, of another shape, twice there or not of floats.
    """
    found: dict[str, Shape] = {}
    names: dict[str, str] = {}
    for path in weights:
        for name, shape, dtype in headers(path):
            plain = plain_name(name)
            if plain.endswith(_BUFFERS):
                continue
            if plain in found:
                raise BadInput(f"{path}: {name} is in the weights twice: save the model again.")
            if dtype not in _FLOATS:
                raise BadInput(
                    f"{path}: {name} is of type {dtype}, not floating-point: give the checkpoint before quantization."
                )
            found[plain], names[plain] = shape, name
    layers = [int(part["num_hidden_layers"]) for part in (text_config(config), vision_config(config))]
    if sum(layers) > len(found):
        raise BadInput(
            f"{folder}: config.json asks for {sum(layers)} layers, and the weights hold {len(found)} tensors."
        )
    wanted = expected(config)
    optional = {"lm_head.weight"}
    wrong = [one for one in found if one in wanted and found[one] != wanted[one]]
    problems = [
        f"{what} {_listed(listed)}"
        for what, listed in (
            ("missing", [one for one in wanted if one not in found]),
            ("unexpected", [names[one] for one in found if one not in wanted and one not in optional]),
            ("of another shape", [f"{names[one]} {list(found[one])} for {list(wanted[one])}" for one in wrong]),
        )
        if listed
    ]
    if problems:
        raise BadInput(
            f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}; save the model again."
        )


def check_index(index: Path, weight_map: Mapping[str, str]) -> None:
    """Compares an index with the headers of its shards.

    Raises:
        BadInput: a tensor is not in the shard that the index names for it, or a shard has one that is not in the index.
    """
    held = {(name, shard) for shard in set(weight_map.values()) for name, _, _ in headers(index.parent / shard)}
    for name, shard in weight_map.items():
        if (name, shard) not in held:
            raise BadInput(f"{index} names {name} in {shard}, which does not hold it: save the model again.")
    for name, shard in sorted(held):
        if name not in weight_map:
            raise BadInput(f"{index.parent / shard} holds {name}, which {index.name} does not name: save it again.")


def headers(path: Path) -> Iterator[tuple[str, Shape, str]]:
    """Name, shape and type of each tensor of a safetensors file.

    Raises:
        BadInput: the file is damaged, cut short or empty.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            names = list(tensors.keys())
            rows = [(name, tensors.get_slice(name)) for name in names]
            listed = [(name, tuple(one.get_shape()), str(one.get_dtype())) for name, one in rows]
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is no valid safetensors file ({error}): save the weights again.") from None
    if not listed:
        raise BadInput(f"{path} holds no tensors: save the weights again.")
    yield from listed


def plain_name(name: str) -> str:
    """A tensor's name as `expected` writes it: savers of several years put the language model in other places."""
    plain = name.removeprefix("model.")
    if plain.startswith("language_model.lm_head."):
        return plain.removeprefix("language_model.")
    return plain.replace("language_model.model.", "language_model.", 1)


def _filled(
    given: Mapping[str, Any],
    field: str,
    usual: str,
    kinds: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
) -> dict[str, Any]:
    kind = given.get("model_type", usual)
    if kind not in kinds:
        raise BadInput(f"config.json: {field}.model_type is {kind!r}, but only {', '.join(kinds)} are supported.")
    return {**common, **kinds[kind], "model_type": kind, **given}


def _language(text: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner, kind = int(text["hidden_size"]), int(text["intermediate_size"]), text["model_type"]
    heads = int(text["num_attention_heads"])
    head = int(text["head_dim"] or width // heads)
    kv_heads = int(text["num_key_value_heads"] or heads)
    own_bias = bool(text.get("attention_bias")) and kind == "llama"
    mlp_bias = bool(text.get("mlp_bias")) and kind == "llama"
    yield "language_model.embed_tokens.weight", (int(text["vocab_size"]), width)
    yield "language_model.norm.weight", (width,)
    for layer in range(int(text["num_hidden_layers"])):
        place = f"language_model.layers.{layer}"
        yield f"{place}.input_layernorm.weight", (width,)
        yield f"{place}.post_attention_layernorm.weight", (width,)
        for name, count in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
            yield from _linear(f"{place}.self_attn.{name}", count * head, width, own_bias or kind == "qwen2")
        yield from _linear(f"{place}.self_attn.o_proj", width, heads * head, own_bias)
        for name in ("gate_proj", "up_proj"):
            yield from _linear(f"{place}.mlp.{name}", inner, width, mlp_bias)
        yield from _linear(f"{place}.mlp.down_proj", width, inner, mlp_bias)


def _tower(vision: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner, patch = int(vision["hidden_size"]), int(vision["intermediate_size"]), int(vision["patch_size"])
    classes = class_tokens(vision)
    positions = (int(vision["image_size"]) // patch) ** 2 + classes
    yield "embeddings.patch_embedding.weight", (width, int(vision["num_channels"]), patch, patch)
    yield "embeddings.position_embedding.weight", (positions, width)
    if classes:
        yield "embeddings.class_embedding", (width,)
        yield from _norm("pre_layrnorm", width)
    else:
        yield "embeddings.patch_embedding.bias", (width,)
    yield from _norm("post_layernorm", width)
    for layer in range(int(vision["num_hidden_layers"])):
        place = f"encoder.layers.{layer}"
        for name in ("layer_norm1", "layer_norm2"):
            yield from _norm(f"{place}.{name}", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{place}.self_attn.{name}", width, width)
        yield from _linear(f"{place}.mlp.fc1", inner, width)
        yield from _linear(f"{place}.mlp.fc2", width, inner)
    if not classes and vision["vision_use_head"]:
        yield "head.probe", (1, 1, width)
        yield "head.attention.in_proj_weight", (3 * width, width)
        yield "head.attention.in_proj_bias", (3 * width,)
        yield from _linear("head.attention.out_proj", width, width)
        yield from _norm("head.layernorm", width)
        yield from _linear("head.mlp.fc1", inner, width)
        yield from _linear("head.mlp.fc2", width, inner)


def _linear(name: str, after: int, before: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (after, before)
    if bias:
        yield f"{name}.bias", (after,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
