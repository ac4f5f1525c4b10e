"""What the axes of pruning and quantization say of shapes: widths and counts that are left, groups that fit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spaces.axes import Choice
from spaces.axes.pruning import kept_width
from spaces.axes.quantization import nearest_group

_PARTS = {"weights": "language model", "vision": "vision encoder", "projector": "projector"}


def pruned_shape(config: Mapping[str, Any], choice: Choice) -> dict[str, int]:
    """What is left of a LLaVA-layout checkpoint: ffn, heads, kv_heads, layers, vision_ffn, vision_heads, vision_layers.

    ``config`` is a config.json with the shapes of both parts written out. Knobs that ``choice`` lacks count as 0.
    """
    text, vision = config["text_config"], config["vision_config"]

    def share(knob: str) -> float:
        return float(choice.get(knob, 0.0))

    groups = kept_count(int(text["num_key_value_heads"]), share("heads"))
    return {
        "ffn": kept_width(int(text["intermediate_size"]), share("ffn")),
        "heads": groups * (int(text["num_attention_heads"]) // int(text["num_key_value_heads"])),
        "kv_heads": groups,
        "layers": kept_count(int(text["num_hidden_layers"]), share("layers")),
        "vision_ffn": kept_width(int(vision["intermediate_size"]), share("vision_ffn")),
        "vision_heads": kept_count(int(vision["num_attention_heads"]), share("vision_heads")),
        "vision_layers": kept_count(int(vision["num_hidden_layers"]), share("vision_layers")),
    }


def kept_count(count: int, share: float) -> int:
    """How many of ``count`` are left: the nearest whole number, the lower one of two as near, and one at least."""
    return min(count, max(1, math.ceil((1 - share) * count - 0.5 - 1e-9)))


def illegal(choice: Choice, widths: Mapping[str, Sequence[int]]) -> str | None:
    """What is wrong with a choice of quantization for a model of these widths, with the cure; null if it is legal.

    ``widths``: the row lengths of the linear layers, by the knob that says how a part is quantized.
    """
    wanted = int(choice["group_size"])
    int4 = [knob for knob in _PARTS if choice.get(knob) == "int4"]
    misfit = next((knob for knob in int4 if any(row % wanted for row in widths[knob])), None)
    if misfit is None:
        return None
    nearest = nearest_group([row for knob in int4 for row in widths[knob]], wanted)
    cure = f"take {nearest}" if nearest else f"take quantization.{misfit} int8, or prune to multiples of 32"
    listed = ", ".join(str(row) for row in sorted(set(widths[misfit])))
    return f"quantization.group_size {wanted} does not divide the {_PARTS[misfit]}'s widths ({listed}): {cure}."
