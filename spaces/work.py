"""How much a deployed model computes and reads for one answer, counted from its shape before anything is built."""

import math
from dataclasses import dataclass

from spaces.estimate import (
    Choices,
    deployed,
    estimate,
    exported,
    kept_tokens,
    part_bytes,
    token_cache_bytes,
    vision_layers,
)
from spaces.shape import Part, Shape, Tensor, Tower

TEXT_TOKENS = 16
"""Tokens of a question with its template, where nothing better is known."""
ANSWER_TOKENS = 2
"""Tokens of an answer with its end token, where nothing better is known."""
SERVED = "server"
"""The runtime that holds a model of its own, whose size and device nothing here knows."""
_F32 = 4


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of an answer: its calls of a graph together.

    Attributes:
        bytes_read: weights once for each call, and the cache of keys and values.
        operations: of matrix products, convolutions and attention; a multiplication and an addition are two.
        layers: transformer layers that are run, over all calls.
    """

    bytes_read: float
    operations: float
    layers: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """One answer: images encoded, prompt read, and the tokens after the first one.

    Attributes:
        dtype: what is computed in.
        calls: how often a graph is called.
        threads: CPU threads that may work; 0 where that is not pinned.
        device: what the bundle is pinned to, ``cpu`` or ``cuda``; empty where the device decides.
        memory_bytes: the least that must be held, see `spaces.estimate.Estimate.memory_bytes`.
    """

    vision: Phase
    prefill: Phase
    decode: Phase
    dtype: str
    calls: int
    threads: int
    memory_bytes: int
    device: str = ""


def work(shape: Shape, choices: Choices, text_tokens: int = TEXT_TOKENS, answer_tokens: int = ANSWER_TOKENS) -> Work:
    """The work of one answer for one choice of every axis.

    Attention is counted in full, as kernels that use no mask do: a causal one computes half of it. Only the last
    position's logits are computed. Exemplars of a fixed beginning are read once and cost nothing but their cache under
    OpenVINO; nearest ones, and all under torch, are encoded and read for each answer.
    """
    _, left = deployed(shape, choices)
    runtime, prompt = choices["runtime"], choices["prompt"]
    seen = kept_tokens(left, choices) + text_tokens
    exemplars = int(prompt.get("exemplars", 0))
    fresh = exemplars if runtime["name"] == "torch" or prompt.get("exemplar_choice") == "nearest" else 0
    held = (exemplars - fresh) * (seen + answer_tokens)
    read = seen + fresh * (seen + answer_tokens)
    weights = _weights(left, choices)
    cache = token_cache_bytes(left, choices)
    language = weights["language"] + weights["head"]
    steps = answer_tokens - 1
    places = range(held + read + 1, held + read + 1 + steps)
    images, depth = 1 + fresh, left.language.layers
    return Work(
        vision=Phase(
            bytes_read=images * (weights["vision"] + weights["projector"]),
            operations=images * vision_operations(left),
            layers=images * max(1, vision_layers(left)),
        ),
        prefill=Phase(
            bytes_read=language + held * cache, operations=language_operations(left, read, held + read), layers=depth
        ),
        decode=Phase(
            bytes_read=steps * language + sum(places) * cache,
            operations=math.fsum(language_operations(left, 1, place) for place in places),
            layers=steps * depth,
        ),
        dtype=str(runtime["inference_precision"]),
        calls=images + 1 + steps,
        threads=int(runtime["threads"]),
        memory_bytes=estimate(shape, choices).memory_bytes + held * cache,
        device=pinned_device(choices),
    )


def pinned_device(choices: Choices) -> str:
    """``cpu`` or ``cuda`` where the choices pin it: a server's device is its own."""
    runtime = choices["runtime"]
    return "" if runtime["name"] == SERVED else str(runtime.get("device", ""))


def vision_operations(shape: Shape) -> float:
    """Operations of one image: patches, the layers up to the one whose output is used, and the projector."""
    patches = (shape.image_size // shape.patch_size) ** 2
    places = next((one.shape[0] for one in shape.tensors if one.role == "position_embedding"), patches)
    linear = 0.0
    for tensor in exported(shape):
        if _is_matrix(tensor):
            positions = shape.visual_tokens if tensor.part == "projector" else places
            if tensor.part == "vision":
                positions = patches if tensor.role == "patch_embedding" else places
            linear += 2.0 * positions * tensor.size if tensor.part in ("vision", "projector") else 0.0
    return linear + max(1, vision_layers(shape)) * _attention(shape.vision, places, places)


def language_operations(shape: Shape, positions: int, context: int) -> float:
    """Operations of ``positions`` tokens in one call, each attending to ``context`` of them; one row of logits."""
    linear = sum(2.0 * positions * one.size for one in shape.tensors if one.part == "language" and _is_matrix(one))
    head: Part = "embeddings" if shape.tied else "head"
    logits = sum(2.0 * one.size for one in shape.tensors if one.part == head and _is_matrix(one))
    return linear + logits + shape.language.layers * _attention(shape.language, positions, context)


def _attention(tower: Tower, queries: int, keys: int) -> float:
    """Scores and their sum over the values: two products of ``queries`` x ``keys`` x head width for each head."""
    return 4.0 * queries * keys * tower.heads * tower.head_dim


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.name.endswith(".weight") and len(tensor.shape) >= 2 and tensor.role != "position_embedding"


def _weights(shape: Shape, choices: Choices) -> dict[Part, float]:
    """Bytes of each part's weights as the runtime reads them."""
    found = part_bytes(shape, choices["quantization"])
    if choices["runtime"]["name"] != "torch":
        return found
    torch = {part: float(_F32 * count) for part, count in shape.parameters.items()}
    return torch | ({"head": torch["embeddings"]} if shape.tied else {})
