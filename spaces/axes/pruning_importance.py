"""How much channels, heads and layers matter: from weights alone, or from what flows through them on samples."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from spaces.axes.pruning_parts import Ffn, Heads
from spaces.axes.supervised import Example, laid_out

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module


class Importance(Protocol):
    """Scores in float64; what scores least goes first."""

    def channels(self, ffn: Ffn) -> "Tensor":
        """One score per channel."""
        ...

    def units(self, heads: Heads) -> "Tensor":
        """One score per `Heads.units`."""
        ...

    def layer(self, layer: Any, heads: Heads, ffn: Ffn) -> float:
        """The score of a whole layer."""
        ...


class OfWeights:
    """Importance from norms of weights (L2, Frobenius)."""

    def channels(self, ffn: Ffn) -> "Tensor":
        """The product of the norms of what goes into channel j and of what comes out of it.

        Channel j of a gated FFN adds ``silu(g_j . x) (u_j . x) d_j`` to the residual stream, with row g_j of the gate,
        row u_j of the up and column d_j of the down projection. As ``|silu(z)| <= |z|``, its norm is at most
        ``|g_j| |u_j| |d_j| |x|^2``. A plain FFN has one row in place of two.
        """
        score: Tensor = ffn.out.weight.detach().double().norm(dim=0)
        for linear in ffn.into:
            score = linear.weight.detach().double().norm(dim=1) * score
        return score

    def units(self, heads: Heads) -> "Tensor":
        """The norm of a unit's output columns times that of the value rows that it reads."""
        out = heads.out.weight.detach().double().norm(dim=0).reshape(heads.units, -1).norm(dim=1)
        value = heads.value.weight.detach().double().norm(dim=1).reshape(heads.groups, -1).norm(dim=1)
        score: Tensor = out * value
        return score

    def layer(self, layer: Any, heads: Heads, ffn: Ffn) -> float:  # noqa: ARG002
        """The norm of the two matrices that write into the residual stream."""
        return math.hypot(*(float(linear.weight.detach().double().norm()) for linear in (heads.out, ffn.out)))


class OfActivations:
    """Importance from one pass over samples, each a prompt with its image and answer.

    Channels and heads: Wanda's score ``|W_ij| ||X_j||_2`` (Sun et al., arXiv 2306.11695) of the matrix that reads
    them, summed over its rows and over the columns of one head. Layers: block influence, one less the mean cosine
    between what enters a layer and what leaves it (ShortGPT, Men et al., arXiv 2403.03853).
    """

    def __init__(
        self, model: Any, examples: "Iterable[tuple[Example, Tensor]]", reads: Sequence["Linear"], layers: Any
    ):
        """Runs ``examples`` with their pixels, (1, channel, row, column); only ``reads`` and ``layers`` get scores."""
        import torch

        self._squares: dict[Linear, Tensor] = {}
        self._cosines: dict[Module, list[Tensor]] = {}
        with torch.no_grad(), self._watched(reads, layers):
            for example, pixels in examples:
                visual = torch.stack(
                    list(model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output)
                )
                embedded, _ = laid_out(model, [example], visual)
                model.model.language_model(inputs_embeds=embedded, use_cache=False)

    def channels(self, ffn: Ffn) -> "Tensor":
        return self._wanda(ffn.out)

    def units(self, heads: Heads) -> "Tensor":
        return self._wanda(heads.out).reshape(heads.units, -1).sum(dim=1)

    def layer(self, layer: Any, heads: Heads, ffn: Ffn) -> float:  # noqa: ARG002
        import torch

        return 1 - float(torch.cat(self._cosines[layer]).mean())

    def _wanda(self, linear: "Linear") -> "Tensor":
        return linear.weight.detach().double().abs().sum(dim=0) * self._squares[linear].sqrt()

    @contextmanager
    def _watched(self, reads: Sequence["Linear"], layers: Any) -> Iterator[None]:
        hooks = [linear.register_forward_pre_hook(self._add_squares) for linear in reads]
        hooks += [layer.register_forward_hook(self._add_cosines, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _add_squares(self, linear: "Linear", inputs: "tuple[Tensor, ...]") -> None:
        seen = inputs[0].double().reshape(-1, linear.in_features).square().sum(dim=0)
        self._squares[linear] = self._squares.get(linear, 0) + seen

    def _add_cosines(self, layer: "Module", inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        import torch

        before = inputs[0] if inputs else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        cosines = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        self._cosines.setdefault(layer, []).append(cosines.flatten())
