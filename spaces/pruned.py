"""What a choice of pruning leaves of a shape, worked out without touching a weight."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spaces.axes import Choice
from spaces.axes.pruning_shape import pruned_shape
from spaces.shape import Shape, Tensor, Tower


def pruned(shape: Shape, choice: Choice) -> Shape:
    """The shape that a choice of the pruning axis leaves, its tensors with it."""
    left = pruned_towers(shape, choice)
    towers = {"language": left.language, "vision": left.vision}
    tensors = tuple(
        replace(one, shape=_cut(one, towers[one.part])) if one.part in towers else one
        for one in shape.tensors
        if one.layer is None or one.part not in towers or one.layer < towers[one.part].layers
    )
    return replace(left, tensors=tensors)


def pruned_towers(shape: Shape, choice: Choice) -> Shape:
    """As `pruned`, but the tensors stay as they are."""
    left = pruned_shape(_as_config(shape), choice)
    return replace(
        shape,
        language=_smaller(shape.language, left, choice, ""),
        vision=_smaller(shape.vision, left, choice, "vision_"),
    )


def _smaller(tower: Tower, left: Mapping[str, int], choice: Choice, prefix: str) -> Tower:
    """The tower with what is left, where a share goes at all: of nothing removed, not even a width is rounded."""

    def goes(knob: str) -> bool:
        return float(choice.get(f"{prefix}{knob}", 0.0)) > 0

    if goes("ffn"):
        tower = replace(tower, ffn=left[f"{prefix}ffn"])
    if goes("layers"):
        tower = replace(tower, layers=left[f"{prefix}layers"])
    if goes("heads"):
        heads = left[f"{prefix}heads"]
        tower = replace(tower, heads=heads, kv_heads=left.get(f"{prefix}kv_heads", heads))
    return tower


def _as_config(shape: Shape) -> Mapping[str, Any]:
    """A config.json of the model with the sizes of both towers written out."""

    def of(tower: Tower) -> dict[str, Any]:
        return {
            "model_type": tower.kind,
            "hidden_size": tower.width,
            "intermediate_size": tower.ffn,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "num_key_value_heads": tower.kv_heads,
            "head_dim": tower.head_dim,
        }

    return {
        "text_config": of(shape.language),
        "vision_config": of(shape.vision),
        "vision_feature_layer": shape.feature_layer,
    }


def _cut(tensor: Tensor, tower: Tower) -> tuple[int, ...]:
    if tensor.layer is None:
        return tensor.shape
    heads, groups = tower.heads * tower.head_dim, tower.kv_heads * tower.head_dim
    rows = {"gate_proj": tower.ffn, "up_proj": tower.ffn, "fc1": tower.ffn, "q_proj": heads}
    rows |= {"k_proj": groups, "v_proj": groups}
    columns = {"down_proj": tower.ffn, "fc2": tower.ffn, "o_proj": heads, "out_proj": heads}
    if tensor.role in rows:
        return (rows[tensor.role], *tensor.shape[1:])
    if tensor.role in columns and len(tensor.shape) == 2:
        return (tensor.shape[0], columns[tensor.role])
    return tensor.shape
