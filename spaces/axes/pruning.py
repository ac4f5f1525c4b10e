"""The axis of pruning: narrower FFNs in the language model."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spaces.axes import Choice, Domain, Samples
from spaces.axes.checkpoint import load_strict, save
from spaces.errors import StageFailed

if TYPE_CHECKING:
    from torch import Tensor

MULTIPLE = 64


class Pruning:
    """Knob ``ffn``: the share of FFN channels removed from every layer of the language model.

    Channel j of a gated FFN adds ``silu(g_j . x) (u_j . x) d_j`` to the residual stream, with row g_j of the gate, row
    u_j of the up and column d_j of the down projection. As ``|silu(z)| <= |z|``, its norm is at most
    ``|g_j| |u_j| |d_j| |x|^2``: the channels with the least ``|g_j| |u_j| |d_j|`` (L2 norms) are removed, layer by
    layer; the rest keep their order. The kept width is `kept_width`.
    """

    name = "pruning"
    version = 1
    tools: tuple[str, ...] = ("torch", "transformers", "safetensors")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "ffn": Domain(
                kind="float", default=0.0, low=0.0, high=0.9, help="share of FFN channels removed from every layer"
            )
        }
    )

    def changes(self, choice: Choice) -> bool:
        return float(choice["ffn"]) > 0

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Writes an ordinary checkpoint with a smaller ``intermediate_size``. Byte-deterministic.

        Raises:
            StageFailed: the language model has no gated FFN, or the checkpoint does not load strictly.
        """
        model = load_strict(source, "float16")
        text = model.config.text_config
        kept = kept_width(int(text.intermediate_size), float(choice["ffn"]))
        for layer in model.model.language_model.layers:
            _narrow(layer.mlp, kept)
        text.intermediate_size = kept
        save(model, source, target)


def kept_width(width: int, share: float) -> int:
    """The FFN width that is left when ``share`` of ``width`` goes.

    The nearest multiple of 64, the lower one where two are as near and never none, so that groups of int4 weights still
    fit; for a width below 64 the nearest whole number, at least 1.
    """
    unit = MULTIPLE if width >= MULTIPLE else 1
    units = math.ceil((1 - share) * width / unit - 0.5 - 1e-9)
    return min(width, max(1, units) * unit)


def _narrow(mlp: Any, kept: int) -> None:
    import torch

    try:
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    except AttributeError:
        raise StageFailed(f"pruning.ffn needs gated FFNs (gate, up, down), not {type(mlp).__name__}.") from None
    score: Tensor = gate.weight.double().norm(dim=1) * up.weight.double().norm(dim=1) * down.weight.double().norm(dim=0)
    channels = torch.argsort(score, descending=True, stable=True)[:kept].sort().values
    with torch.no_grad():
        for rows in (gate, up):
            rows.weight = torch.nn.Parameter(rows.weight[channels].clone(), requires_grad=False)
            if rows.bias is not None:
                rows.bias = torch.nn.Parameter(rows.bias[channels].clone(), requires_grad=False)
            rows.out_features = kept
        down.weight = torch.nn.Parameter(down.weight[:, channels].clone(), requires_grad=False)
        down.in_features = kept


AXIS = Pruning()
