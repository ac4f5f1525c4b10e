"""The visual tokens of training images, with gradients where the projector or the vision tower learns."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.axes.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

CACHE_BYTES = 1 << 30


class Visual:
    """Images to projected visual tokens, (image, token, width).

    A frozen vision tower sees each image once, as long as its outputs fit into 1 GiB.
    """

    def __init__(self, model: Any, layout: Layout, *, tower_learns: bool) -> None:
        self._model = model
        self._layout = layout
        self._tower_learns = tower_learns
        self._known: dict[Path, Tensor] = {}

    def __call__(self, images: Sequence[Path]) -> "Tensor":
        """The tokens of the images, in their order."""
        import torch

        if self._tower_learns:
            return torch.stack(list(self._features(images)))
        seen: Tensor = self._model.model.multi_modal_projector(self._seen(images))
        return seen

    def _seen(self, images: Sequence[Path]) -> "Tensor":
        """What the vision tower gives to the projector."""
        import torch

        new = [path for path in dict.fromkeys(images) if path not in self._known]
        found = dict(self._known)
        if new:
            found |= dict(zip(new, self._tower(new), strict=True))
            if sum(one.nbytes for one in found.values()) <= CACHE_BYTES:
                self._known = found
        return torch.stack([found[path] for path in images])

    def _tower(self, images: Sequence[Path]) -> "Tensor":
        import torch

        given: list[Tensor] = []
        hook = self._model.model.multi_modal_projector.register_forward_pre_hook(
            lambda _, inputs: given.append(inputs[0])
        )
        try:
            with torch.no_grad():
                self._features(images)
        finally:
            hook.remove()
        return given[0]

    def _features(self, images: Sequence[Path]) -> Any:
        import torch

        pixels = torch.from_numpy(self._layout.pixels(images))
        return self._model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
