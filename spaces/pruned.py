"""What a choice of pruning leaves of a shape, worked out without touching a weight."""

from collections.abc import Mapping
from dataclasses import replace

from spaces.axes import Value
from spaces.axes.pruning import kept_width
from spaces.shape import Shape, Tensor, Tower

_FFN_ROWS = {"gate_proj", "up_proj", "fc1"}
_FFN_COLUMNS = {"down_proj", "fc2"}
_HEAD_COLUMNS = {"o_proj", "out_proj"}


def pruned(shape: Shape, choice: Mapping[str, Value]) -> Shape:
    """The shape that a choice of the pruning axis leaves; knobs that the axis does not have count as 0.

    Layers may be none, see `spaces.legality`.
    """
    towers = {
        "language": smaller(shape.language, choice, ""),
        "vision": smaller(shape.vision, choice, "vision_"),
    }
    tensors = tuple(
        replace(one, shape=_cut(one, towers[one.part])) if one.part in towers else one
        for one in shape.tensors
        if one.layer is None or one.part not in towers or one.layer < towers[one.part].layers
    )
    return replace(shape, language=towers["language"], vision=towers["vision"], tensors=tensors)


def kept_count(total: int, share: float) -> int:
    """How many of ``total`` heads or layers are left when ``share`` goes: the nearest whole number, perhaps none."""
    return round((1 - share) * total)


def smaller(tower: Tower, choice: Mapping[str, Value], prefix: str) -> Tower:
    """The tower that the knobs with this prefix (none for the language model, ``vision_``) leave.

    Heads go in groups that share keys and values.
    """

    def share(knob: str) -> float:
        return float(choice.get(f"{prefix}{knob}", 0.0))

    groups = max(1, kept_count(tower.kv_heads, share("heads")))
    return replace(
        tower,
        ffn=kept_width(tower.ffn, share("ffn")) if share("ffn") else tower.ffn,
        layers=kept_count(tower.layers, share("layers")),
        kv_heads=groups,
        heads=groups * (tower.heads // tower.kv_heads),
    )


def _cut(tensor: Tensor, tower: Tower) -> tuple[int, ...]:
    if tensor.layer is None:
        return tensor.shape
    rows = {
        **dict.fromkeys(_FFN_ROWS, tower.ffn),
        "q_proj": tower.heads * tower.head_dim,
        "k_proj": tower.kv_heads * tower.head_dim,
        "v_proj": tower.kv_heads * tower.head_dim,
    }
    columns = {
        **dict.fromkeys(_FFN_COLUMNS, tower.ffn),
        **dict.fromkeys(_HEAD_COLUMNS, tower.heads * tower.head_dim),
    }
    if tensor.role in rows:
        return (rows[tensor.role], *tensor.shape[1:])
    if tensor.role in columns and len(tensor.shape) == 2:
        return (tensor.shape[0], columns[tensor.role])
    return tensor.shape
