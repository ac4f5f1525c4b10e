"""The prunable parts of a LLaVA-layout model: FFNs, attention heads and layers, whatever their modules are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spaces.errors import StageFailed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear


@dataclass(frozen=True)
class Ffn:
    """``into`` (gate and up, or fc1) write the channels, ``out`` (down, or fc2) reads them."""

    into: "tuple[Linear, ...]"
    out: "Linear"

    def narrow(self, channels: "Tensor") -> None:
        """Leaves the channels alone, in their order."""
        for linear in self.into:
            keep_rows(linear, channels)
        keep_columns(self.out, channels)


@dataclass(frozen=True)
class Heads:
    """The projections of one attention: ``groups`` key-value heads of ``dim`` numbers, each with ``queries`` heads."""

    query: "Linear"
    key: "Linear"
    value: "Linear"
    out: "Linear"
    dim: int
    groups: int
    queries: int

    @property
    def units(self) -> int:
        """How many parts can be removed one by one: the groups, or the query heads where there is one group."""
        return self.groups if self.groups > 1 else self.queries

    @property
    def span(self) -> int:
        """How many columns of ``out`` belong to one unit."""
        return self.dim * (self.queries if self.groups > 1 else 1)

    def narrow(self, units: "Tensor") -> None:
        """Leaves the units alone, in their order."""
        keep_rows(self.query, spans(units, self.span))
        keep_columns(self.out, spans(units, self.span))
        if self.groups > 1:
            for linear in (self.key, self.value):
                keep_rows(linear, spans(units, self.dim))

    def kill_others(self, units: "Tensor") -> None:
        """Sets to zero what the other units write: value rows and biases, and columns of the output. Shapes stay."""
        import torch

        dead = torch.ones(self.units, dtype=torch.bool)
        dead[units] = False
        places = dead.repeat_interleave(self.dim)
        with torch.no_grad():
            self.value.weight[places] = 0
            if self.value.bias is not None:
                self.value.bias[places] = 0
            self.out.weight[:, places] = 0


def text_layers(model: Any) -> Any:
    """The layers of the language model."""
    return model.model.language_model.layers


def vision_layers(model: Any) -> Any:
    """The layers of the vision tower.

    Raises:
        StageFailed: it is neither SigLIP nor CLIP.
    """
    tower = model.model.vision_tower
    try:
        return tower.vision_model.encoder.layers
    except AttributeError:
        raise StageFailed(
            f"pruning of the vision tower needs SigLIP or CLIP, not {type(tower).__name__}: leave vision_* out."
        ) from None


def ffns(layers: Any) -> list[Ffn]:
    """The FFN of each layer.

    Raises:
        StageFailed: an FFN is neither gated (gate, up, down) nor plain (fc1, fc2).
    """
    return [_ffn(layer.mlp) for layer in layers]


def pooling_ffns(model: Any) -> list[Ffn]:
    """The FFN of SigLIP's pooling head, where there is one: no feature comes from it, but it has the config's width."""
    head = getattr(model.model.vision_tower.vision_model, "head", None)
    return [_ffn(head.mlp)] if head is not None else []


def heads(layers: Any) -> list[Heads]:
    """The attention of each layer.

    Raises:
        StageFailed: an attention has no projections of their own for queries, keys and values.
    """
    return [_heads(layer.self_attn) for layer in layers]


def _ffn(mlp: Any) -> Ffn:
    if all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")):
        return Ffn((mlp.gate_proj, mlp.up_proj), mlp.down_proj)
    if all(hasattr(mlp, name) for name in ("fc1", "fc2")):
        return Ffn((mlp.fc1,), mlp.fc2)
    raise StageFailed(f"pruning needs gated FFNs (gate, up, down) or plain ones (fc1, fc2), not {type(mlp).__name__}.")


def _heads(attention: Any) -> Heads:
    out = getattr(attention, "o_proj", None) or getattr(attention, "out_proj", None)
    if out is None or not all(hasattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "head_dim")):
        raise StageFailed(
            f"pruning needs attention with q, k, v and output projections, not {type(attention).__name__}."
        )
    dim = int(attention.head_dim)
    groups = attention.v_proj.out_features // dim
    queries = attention.q_proj.out_features // dim // groups
    return Heads(attention.q_proj, attention.k_proj, attention.v_proj, out, dim, groups, queries)


def spans(units: "Tensor", width: int) -> "Tensor":
    """The rows or columns of units that are ``width`` wide each."""
    import torch

    return (units[:, None] * width + torch.arange(width)).flatten()


def strongest(scores: "Tensor", count: int) -> "Tensor":
    """Where the ``count`` highest scores are, in their order; of equal ones the first."""
    import torch

    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def keep_rows(linear: "Linear", rows: "Tensor") -> None:
    """Leaves these outputs of a linear layer alone."""
    from torch.nn import Parameter

    linear.weight = Parameter(linear.weight.detach()[rows].clone(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = Parameter(linear.bias.detach()[rows].clone(), requires_grad=False)
    linear.out_features = len(rows)


def keep_columns(linear: "Linear", columns: "Tensor") -> None:
    """Leaves these inputs of a linear layer alone."""
    from torch.nn import Parameter

    linear.weight = Parameter(linear.weight.detach()[:, columns].clone(), requires_grad=False)
    linear.in_features = len(columns)


def keep_layers(layers: Any, kept: Sequence[int]) -> None:
    """Leaves these layers of a module list alone."""
    for number in reversed(range(len(layers))):
        if number not in kept:
            del layers[number]
