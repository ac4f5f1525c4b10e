"""What pruning leaves: widths and counts, worked out from a config alone. Loads no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spaces.axes import Choice

MULTIPLE = 64
# Their configs refuse a number of heads that does not divide the hidden size, even with an explicit head_dim.
_HEADS_DIVIDE_WIDTH = frozenset({"arcee", "cwm", "gemma2", "gemma3_text", "llama"})


def pruned_shape(config: Mapping[str, Any], choice: Choice) -> dict[str, int]:
    """What is left of a LLaVA-layout checkpoint after ``choice``, by name.

    Names: ``ffn`` (width), ``heads`` (query heads), ``kv_heads``, ``head_dim``, ``layers`` of the language model, and
    ``vision_ffn``, ``vision_heads`` (heads that are not dead, see `spaces.axes.dead_heads`), ``vision_layers``.
    ``config`` is a config.json with the shapes of both parts written out. Knobs that ``choice`` lacks count as 0.

    Raises:
        KeyError: the config does not name one of the shapes.
    """
    text, vision = config["text_config"], config["vision_config"]
    heads, groups = kept_heads(text, _share(choice, "heads"))
    vision_layers = int(vision["num_hidden_layers"])
    used = feature_depth(config)
    return {
        "ffn": kept_width(int(text["intermediate_size"]), _share(choice, "ffn")),
        "heads": heads,
        "kv_heads": groups,
        "head_dim": int(text.get("head_dim") or int(text["hidden_size"]) // int(text["num_attention_heads"])),
        "layers": kept_count(int(text["num_hidden_layers"]), _share(choice, "layers")),
        "vision_ffn": kept_width(int(vision["intermediate_size"]), _share(choice, "vision_ffn")),
        "vision_heads": kept_count(int(vision["num_attention_heads"]), _share(choice, "vision_heads")),
        "vision_layers": kept_count(used, _share(choice, "vision_layers")) + vision_layers - used,
    }


def kept_width(width: int, share: float) -> int:
    """The FFN width that is left when ``share`` of ``width`` goes.

    The nearest multiple of 64, the lower one where two are as near and never none, so that groups of int4 weights still
    fit; for a width below 64 the nearest whole number, at least 1.
    """
    unit = MULTIPLE if width >= MULTIPLE else 1
    units = math.ceil((1 - share) * width / unit - 0.5 - 1e-9)
    return min(width, max(1, units) * unit)


def kept_count(count: int, share: float) -> int:
    """How many of ``count`` are left: the nearest whole number, the lower one of two as near, and one at least."""
    return min(count, max(1, math.ceil((1 - share) * count - 0.5 - 1e-9)))


def kept_heads(text: Mapping[str, Any], share: float) -> tuple[int, int]:
    """The query heads and key-value heads that are left of a language model's config.

    Whole groups go, a key-value head with its query heads; query heads alone where there is one key-value head. The
    count is the nearest that the architecture allows, the lower one where two are as near: some, Llama among them, load
    only where the number of query heads divides the hidden size.
    """
    heads = int(text["num_attention_heads"])
    groups = int(text.get("num_key_value_heads") or heads)
    units, queries = (groups, heads // groups) if groups > 1 else (heads, 1)
    bound = text.get("model_type") in _HEADS_DIVIDE_WIDTH
    wanted = max(1.0, (1 - share) * units)
    allowed = [
        n for n in range(1, units + 1) if n == units or not bound or int(text["hidden_size"]) % (n * queries) == 0
    ]
    kept = min(allowed, key=lambda n: (round(abs(n - wanted), 9), n))
    return kept * queries, kept if groups > 1 else 1


def feature_depth(config: Mapping[str, Any]) -> int:
    """After how many vision layers visual features are read: 0 is the patch embeddings, the count the last layer."""
    layer = int(config.get("vision_feature_layer", -2))
    return layer if layer >= 0 else int(config["vision_config"]["num_hidden_layers"]) + 1 + layer


def moved_feature_layer(config: Mapping[str, Any], kept: Sequence[int]) -> int:
    """``vision_feature_layer`` for the vision layers ``kept``: it reads after the same layers, less those removed."""
    depth = feature_depth(config)
    left = sum(number < depth for number in kept)
    return left if config.get("vision_feature_layer", -2) >= 0 else left - (len(kept) + 1)


def _share(choice: Choice, knob: str) -> float:
    return float(choice.get(knob, 0.0))
