"""Attention heads that write nothing: SigLIP and CLIP checkpoints keep pruned heads as zeros, exports leave them out.

Both tie the width of a head to width / heads, so a checkpoint with fewer heads would not load.
"""

from typing import TYPE_CHECKING, Any

from spaces.axes.pruning_parts import Heads, heads

if TYPE_CHECKING:
    from torch import Tensor


def remove_dead_heads(model: Any) -> None:
    """Removes from the vision tower's modules, in place, the heads that write nothing.

    The features stay the same. The model still runs and exports, but does not fit its config any more. A vision tower
    other than SigLIP and CLIP is left as it is.
    """
    encoder = getattr(getattr(model.model.vision_tower, "vision_model", None), "encoder", None)
    if encoder is None:
        return
    for attention in heads(encoder.layers):
        alive = live_heads(attention)
        if len(alive) < attention.units:
            attention.narrow(alive)


def live_heads(attention: Heads) -> "Tensor":
    """The heads with some value and some output column that is not zero; the first where there is none of them.

    An attention without heads would not run.
    """
    import torch

    value = (attention.value.weight.detach() != 0).any(1)
    if attention.value.bias is not None:
        value |= attention.value.bias.detach() != 0
    out = (attention.out.weight.detach() != 0).any(0)
    alive = value.reshape(attention.units, -1).any(1) & out.reshape(attention.units, -1).any(1)
    places = alive.nonzero().flatten()
    return places if len(places) else torch.zeros(1, dtype=torch.long)
