"""What a candidate's deployed weights will weigh, worked out from the shape of its model before anything is built."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from spaces.axes import Value
from spaces.pruned import pruned
from spaces.serving import SERVER
from spaces.shape import PARTS, Part, Shape, Tensor

Choices: TypeAlias = Mapping[str, Mapping[str, Value]]
"""Axis -> its choice, every knob of it."""

_SCALE = 2.0
CACHE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "u8": 1}
_FP16 = 2
_F32 = 4
_KNOBS = {"language": "weights", "head": "weights"}
_UNUSED = re.compile(r"\bpost_layernorm\b|\bhead\b")
"""Of a vision tower: what lies behind its last layer, which LLaVA does not use."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is known of a bundle before it is built.

    Attributes:
        parameters: numbers of the model as pruned; tied embeddings count once.
        weight_bytes: of the graphs' or the checkpoint's weights on disk, without tokenizer and JSON.
        resident_bytes: the weights as the runtime holds them.
        cache_bytes: keys and values of one image's tokens.
    """

    parameters: int
    weight_bytes: int
    resident_bytes: int
    cache_bytes: int

    @property
    def memory_bytes(self) -> int:
        """The least memory that an answer needs. The runtime's own and that of activations come on top."""
        return self.resident_bytes + self.cache_bytes


def estimate(shape: Shape, choices: Choices) -> Estimate:
    """The estimate for one choice of every axis."""
    runtime = choices["runtime"]
    whole, left = deployed(shape, choices)
    parameters = sum(left.parameters.values())
    if runtime["name"] in ("torch", SERVER):
        rewritten = choices["tuning"]["method"] != "none" or left != whole
        stored = sum(_FP16 * one.size if rewritten else one.bytes_stored for one in left.tensors)
        resident = _F32 * parameters if runtime["name"] == "torch" else stored
    else:
        stored = resident = round(graph_bytes(left, choices["quantization"]))
    return Estimate(
        parameters=parameters,
        weight_bytes=stored,
        resident_bytes=resident,
        cache_bytes=kept_tokens(left, choices) * token_cache_bytes(left, choices),
    )


def deployed(shape: Shape, choices: Choices) -> tuple[Shape, Shape]:
    """The shape for the images' chosen size, and what pruning leaves of it."""
    size = int(choices["model"].get("image_size", 0))
    whole = _resized(shape, size) if size else shape
    return whole, pruned(whole, choices["pruning"])


def kept_tokens(shape: Shape, choices: Choices) -> int:
    """How many tokens of one image the language model sees."""
    return max(1, round(float(choices["visual_tokens"]["keep"]) * shape.visual_tokens))


def token_cache_bytes(shape: Shape, choices: Choices) -> int:
    """Bytes of the keys and values of one token in all layers; the least there is where a server has the say."""
    text, runtime = shape.language, choices["runtime"]
    numbers = 2 * text.layers * text.kv_heads * text.head_dim
    least = min(CACHE_BYTES.values())
    return numbers * (least if runtime["name"] == SERVER else CACHE_BYTES[str(runtime["kv_cache_precision"])])


def _resized(shape: Shape, image_size: int) -> Shape:
    """The shape for images of another size, its position embeddings with it; a class token's place stays."""
    resized = replace(shape, image_size=image_size)
    added = resized.visual_tokens - shape.visual_tokens
    tensors = tuple(
        replace(one, shape=(one.shape[0] + added, *one.shape[1:])) if one.role == "position_embedding" else one
        for one in shape.tensors
    )
    return replace(resized, tensors=tensors)


def graph_bytes(shape: Shape, quantization: Mapping[str, Value]) -> float:
    """Bytes of the weights in the exported graphs.

    Tied embeddings are there twice: the head in the language model, and the graph of the text embeddings. Vision layers
    behind the one whose output is projected are not exported.
    """
    return sum(part_bytes(shape, quantization).values())


def part_bytes(shape: Shape, quantization: Mapping[str, Value]) -> dict[Part, float]:
    """`graph_bytes` by part; a tied head counts as head too."""
    dtypes = part_dtypes(quantization)
    total: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    for tensor in exported(shape):
        total[tensor.part] += _tensor_bytes(tensor, dtypes[tensor.part], quantization)
        if shape.tied and tensor.part == "embeddings":
            total["head"] += _tensor_bytes(tensor, dtypes["head"], quantization)
    return total


def exported(shape: Shape) -> list[Tensor]:
    """The tensors that the exported graphs hold."""
    used = max(1, vision_layers(shape))
    return [
        one
        for one in shape.tensors
        if one.part != "vision" or not (_UNUSED.search(one.name) or (one.layer or 0) >= used)
    ]


def part_dtypes(quantization: Mapping[str, Value]) -> dict[Part, str]:
    """The type of each part's linear weights. Embeddings and head are int8 where the language model is quantized."""
    language = str(quantization["weights"])
    outer = "fp16" if language == "fp16" else "int8"
    return {
        "vision": str(quantization["vision"]),
        "projector": str(quantization["projector"]),
        "embeddings": outer,
        "language": language,
        "head": outer,
    }


def vision_layers(shape: Shape) -> int:
    """How many vision layers the projected output needs: hidden state 0 is the input of the first layer."""
    depth = shape.feature_layer
    return depth if depth >= 0 else shape.vision.layers + 1 + depth


def _tensor_bytes(tensor: Tensor, dtype: str, quantization: Mapping[str, Value]) -> float:
    """int8: a byte a weight, an fp16 scale and perhaps a zero point of a byte a row. int4: half of that, by group."""
    matrix = tensor.name.endswith(".weight") and len(tensor.shape) >= 2 and tensor.role != "position_embedding"
    if dtype == "fp16" or not matrix:
        return _FP16 * tensor.size
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    embeddings = tensor.part == "embeddings"
    beside_int4 = not embeddings and quantization[_KNOBS.get(tensor.part, tensor.part)] == "int4"
    asymmetric = embeddings or beside_int4 or quantization["mode"] == "asym"
    int8 = rows * (columns + _SCALE + asymmetric)
    if dtype == "int8" or len(tensor.shape) > 2:
        return int8
    zero_point = 0.5 if quantization["mode"] == "asym" else 0.0
    int4 = rows * columns * (0.5 + (_SCALE + zero_point) / int(quantization["group_size"]))
    ratio = float(quantization["ratio"]) if tensor.part == "language" else 1.0
    return ratio * int4 + (1 - ratio) * int8
