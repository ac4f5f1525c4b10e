"""Another resolution for a vision tower: its learned position embeddings are resized, all else stays as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.axes.files import read_json, write_json
from spaces.axes.tensors import class_tokens, headers, vision_config

if TYPE_CHECKING:
    from torch import Tensor

_TABLE = "vision_model.embeddings.position_embedding.weight"
_INDEX = "model.safetensors.index.json"


def resizing_problem(vision: Mapping[str, Any], size: int) -> str | None:
    """Why a tower with these config fields cannot take images of ``size`` pixels; null where it can."""
    patch = int(vision["patch_size"])
    if size > 0 and size % patch == 0:
        return None
    nearest = max(1, round(size / patch)) * patch
    return f"model.image_size {size} is no multiple of the vision tower's patches of {patch} pixels: take {nearest}."


def resized_table(table: "Tensor", classes: int, patches: int) -> "Tensor":
    """Position embeddings for ``patches`` x ``patches`` places, from a table (classes + n * n, width) of a square grid.

    Bicubic, as ``interpolate_pos_encoding`` of transformers' CLIP and SigLIP towers: align_corners off, in float32. The
    rows of class tokens stay as they are.
    """
    import torch

    own, grid = table[:classes], table[classes:]
    before = round(grid.shape[0] ** 0.5)
    places = grid.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    places = torch.nn.functional.interpolate(places, size=(patches, patches), mode="bicubic", align_corners=False)
    rows = places.permute(0, 2, 3, 1).reshape(patches * patches, -1).to(table.dtype)
    return torch.cat([own, rows])


def resize_weights(folder: Path, size: int) -> None:
    """Resizes the position embeddings in the weight files of ``folder`` for images of ``size`` pixels.

    The file that holds them is written anew (a link is broken), the others are left as they are.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    vision = vision_config(read_json(folder / "config.json"))
    for path in sorted(folder.glob("*.safetensors")):
        names = [name for name, _, _ in headers(path) if name.endswith(_TABLE)]
        if not names:
            continue
        with safe_open(path, framework="pt") as tensors:
            metadata = tensors.metadata()
        weights = load_file(path)
        before = weights[names[0]]
        after = resized_table(before, class_tokens(vision), size // int(vision["patch_size"]))
        weights[names[0]] = after.contiguous()
        path.unlink()
        save_file(weights, path, metadata=metadata)
        _count_anew(folder / _INDEX, after.numel() - before.numel(), before.element_size())


def _count_anew(index: Path, more: int, item: int) -> None:
    content = read_json(index)
    if not content:
        return
    counts = content.get("metadata", {})
    for name, change in (("total_parameters", more), ("total_size", more * item)):
        if name in counts:
            counts[name] += change
    write_json(index, content)
