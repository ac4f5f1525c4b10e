"""What a model folder says of itself without being loaded: widths, heads, layers and parameters by part. No torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from spaces.axes.files import read_json
from spaces.axes.model import weight_files
from spaces.axes.tensors import headers, other_tokens, text_config, tied_embeddings, vision_config
from spaces.errors import BadInput

Part: TypeAlias = Literal["vision", "projector", "embeddings", "language", "head"]
PARTS: tuple[Part, ...] = ("vision", "projector", "embeddings", "language", "head")

_DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LAYER = re.compile(r"\blayers\.(\d+)\.")


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
        feature_layer: the vision layer whose output is projected, as in config.json (-1 is the last).
        other_tokens: as `spaces.axes.tensors.other_tokens`.
        vocabulary: rows of the text embeddings.
        tied: whether the head is the text embeddings; they are then one tensor of the checkpoint.
        tensors: every parameter once.
    """

    vision: Tower
    language: Tower
    image_size: int
    patch_size: int
    feature_layer: int
    other_tokens: int
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
        return (self.image_size // self.patch_size) ** 2 + self.other_tokens


def read_shape(folder: Path) -> Shape:
    """The shape of the checkpoint in a folder, from config.json and the headers of its safetensors.

    Sizes are those of the tensors, so a config.json that leaves out its defaults will do.

    Raises:
        BadInput: a file is missing or damaged, or the tensors are not those of a LLaVA-layout model.
    """
    config = _config(folder / "config.json")
    try:
        tied = tied_embeddings(config)
        tensors = tuple(one for one in _tensors(folder) if not (tied and one.part == "head"))
        embeddings = next(one.shape for one in tensors if one.part == "embeddings")
        patch = next(one.shape for one in tensors if one.role == "patch_embedding" and len(one.shape) == 4)
        places = next(one.shape[0] for one in tensors if one.role == "position_embedding" and len(one.shape) == 2)
        vision = _tower(tensors, "vision", vision_config(config))
        language = _tower(tensors, "language", text_config(config))
        feature_layer = int(config.get("vision_feature_layer", -2))
    except StopIteration:
        raise BadInput(f"model folder {folder} lacks tensors of the LLaVA layout: save the whole model.") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BadInput(f"{folder / 'config.json'}: a field is of the wrong kind ({error}): save it again.") from None
    return Shape(
        vision=vision,
        language=language,
        image_size=math.isqrt(places) * patch[-1],
        patch_size=patch[-1],
        feature_layer=feature_layer,
        other_tokens=other_tokens(config),
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


def _tensors(folder: Path) -> list[Tensor]:
    found = {}
    for name in weight_files(folder):
        if not name.endswith(".safetensors"):
            continue
        for tensor, shape, dtype in headers(folder / name):
            place = _LAYER.search(tensor)
            layer = int(place.group(1)) if place else None
            found[tensor] = Tensor(name=tensor, shape=shape, dtype=dtype, part=_part(tensor), layer=layer)
    return list(found.values())


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
    head_dim = int(config.get("head_dim") or queries // int(config["num_attention_heads"]))
    return Tower(
        kind=str(config["model_type"]),
        width=width,
        layers=1 + max(one.layer or 0 for one in weights),
        heads=queries // head_dim,
        kv_heads=of("k_proj")[0] // head_dim,
        head_dim=head_dim,
        ffn=of("up_proj", "fc1")[0],
    )
