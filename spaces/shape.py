"""What a model folder says of itself without being loaded: widths, heads, layers and parameters by part. No torch."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from spaces.axes.files import read_json
from spaces.axes.model import weight_files
from spaces.errors import BadInput

Part: TypeAlias = Literal["vision", "projector", "embeddings", "language", "head"]
PARTS: tuple[Part, ...] = ("vision", "projector", "embeddings", "language", "head")

_DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_HEADS = {"llama": 32, "mistral": 32, "qwen2": 32, "clip_vision_model": 12, "siglip_vision_model": 12}
"""Attention heads where a config.json leaves them at the default of its model type (transformers)."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a checkpoint. ``layer``: the number of its transformer layer; null outside of layers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    part: Part
    layer: int | None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes_stored(self) -> int:
        """Bytes in the checkpoint's file."""
        return self.size * _DTYPE_BYTES.get(self.dtype, 1)

    @property
    def role(self) -> str:
        """The module's own name: ``q_proj``, ``fc1``, ``embed_tokens``."""
        return self.name.rsplit(".", 2)[-2] if "." in self.name else self.name


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One transformer, of the vision encoder or of the language model.

    Attributes:
        kind: ``model_type`` in config.json.
        heads: those of the queries; each of the ``kv_heads`` serves as many of them.
        ffn: width of the FFNs.
    """

    kind: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A checkpoint in LLaVA layout.

    Attributes:
        image_size, patch_size: pixels a side.
        feature_layers: vision layers whose outputs are projected, as in config.json (-1 is the last).
        vocabulary: rows of the text embeddings.
        tied: whether the head is the text embeddings; they are then one tensor of the checkpoint.
        tensors: every parameter once.
    """

    vision: Tower
    language: Tower
    image_size: int
    patch_size: int
    feature_layers: tuple[int, ...]
    vocabulary: int
    tied: bool
    tensors: tuple[Tensor, ...]

    @cached_property
    def parameters(self) -> Mapping[Part, int]:
        """Numbers by part; tied embeddings count once, as embeddings."""
        return {part: sum(tensor.size for tensor in self.tensors if tensor.part == part) for part in PARTS}

    @property
    def visual_tokens(self) -> int:
        """Tokens of one image, before any are left out."""
        return (self.image_size // self.patch_size) ** 2


def read_shape(folder: Path) -> Shape:
    """The shape of the checkpoint in a folder, from config.json and the headers of its safetensors.

    Sizes are those of the tensors, so a config.json that leaves out its defaults will do.

    Raises:
        BadInput: a file is missing or damaged, or the tensors are not those of a LLaVA-layout model.
    """
    config = _config(folder / "config.json")
    tied = _tied(config)
    tensors = tuple(one for one in _tensors(folder) if not (tied and one.part == "head"))
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    try:
        embeddings = next(one.shape for one in tensors if one.part == "embeddings")
        patch = next(one.shape for one in tensors if one.role == "patch_embedding" and len(one.shape) == 4)
        places = next(one.shape[0] for one in tensors if one.role == "position_embedding" and len(one.shape) == 2)
        vision_tower, language = _tower(tensors, "vision", vision), _tower(tensors, "language", text)
    except StopIteration:
        raise BadInput(f"model folder {folder} lacks tensors of the LLaVA layout: save the whole model.") from None
    features = config.get("vision_feature_layer", -2)
    return Shape(
        vision=vision_tower,
        language=language,
        image_size=int(vision.get("image_size") or math.isqrt(places) * patch[-1]),
        patch_size=patch[-1],
        feature_layers=tuple(features) if isinstance(features, list) else (int(features),),
        vocabulary=embeddings[0],
        tied=tied or not any(one.part == "head" for one in tensors),
        tensors=tensors,
    )


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not readable JSON ({error}): save it again.") from None
    if not isinstance(config, dict) or not config:
        raise BadInput(f"{path}: the model's settings are missing: save the whole model there.")
    return config


def _tied(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def _tensors(folder: Path) -> list[Tensor]:
    found = {}
    for name in weight_files(folder):
        if not name.endswith(".safetensors"):
            continue
        for tensor, one in _header(folder / name).items():
            if tensor != "__metadata__":
                place = _LAYER.search(tensor)
                found[tensor] = Tensor(
                    name=tensor,
                    shape=tuple(one["shape"]),
                    dtype=one["dtype"],
                    part=_part(tensor),
                    layer=int(place.group(1)) if place else None,
                )
    return list(found.values())


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes of its length, then JSON (huggingface.co/docs/safetensors)."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, path.stat().st_size)))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no valid safetensors file ({error}): save the weights again.") from None
    return dict(header)


def _part(name: str) -> Part:
    if "vision_tower" in name:
        return "vision"
    if "multi_modal_projector" in name:
        return "projector"
    if "embed_tokens" in name:
        return "embeddings"
    return "head" if "lm_head" in name else "language"


def _tower(tensors: tuple[Tensor, ...], part: Part, config: Mapping[str, Any]) -> Tower:
    weights = [one for one in tensors if one.part == part and one.layer is not None and one.name.endswith(".weight")]

    def of(*roles: str) -> tuple[int, ...]:
        return next(one.shape for one in weights if one.role in roles)

    queries, width = of("q_proj")
    head_dim = int(config.get("head_dim") or 0)
    if not head_dim:
        heads = config.get("num_attention_heads") or _HEADS.get(str(config.get("model_type", "")), 0)
        head_dim = queries // int(heads) if heads else math.gcd(queries, of("k_proj")[0])
    return Tower(
        kind=str(config.get("model_type", "")),
        width=width,
        layers=1 + max(one.layer or 0 for one in weights),
        heads=queries // head_dim,
        kv_heads=of("k_proj")[0] // head_dim,
        head_dim=head_dim,
        ffn=of("up_proj", "fc1")[0],
    )
