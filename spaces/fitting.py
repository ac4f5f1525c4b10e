"""Fitting an image to a model's input, so that every runtime sees the same pixels. NumPy and Pillow only."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spaces.errors import BadInput
from spaces.images import Pixels


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a model wants its images, from ``preprocessor_config.json``.

    Attributes:
        shortest_edge: pixels of the shorter side after resizing; 0 where ``resized`` gives both sides.
        resized: (height, width) after resizing without regard to the aspect ratio.
        crop: (height, width) of the central crop; null for none.
        resample: Pillow's number of the resampling filter.
        scale, mean, std: normalisation of 8-bit values: ``(value * scale - mean) / std``, by channel.
    """

    shortest_edge: int
    resized: tuple[int, int]
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> "Fit":
        """The fit that a model folder asks for.

        Raises:
            BadInput: if ``preprocessor_config.json`` is missing or lacks a field.
        """
        path = folder / "preprocessor_config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            size, crop = config["size"], config.get("crop_size")
            return cls(
                shortest_edge=int(size.get("shortest_edge", 0)),
                resized=(int(size.get("height", 0)), int(size.get("width", 0))),
                crop=(crop["height"], crop["width"]) if crop and config.get("do_center_crop", True) else None,
                resample=int(config.get("resample", Image.Resampling.BICUBIC)),
                scale=float(config.get("rescale_factor", 1 / 255)),
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} cannot be used ({error!r}); export the model again.") from error


def fitted(image_HWC: Pixels, fit: Fit) -> Pixels:
    """The image resized and cropped as ``transformers.CLIPImageProcessor`` does; the same array where it fits."""
    height, width = image_HWC.shape[:2]
    if fit.shortest_edge:
        edge, short = fit.shortest_edge, min(height, width)
        target = (edge, int(edge * width / height)) if short == height else (int(edge * height / width), edge)
    else:
        target = fit.resized
    if target != (height, width):
        resized = Image.fromarray(image_HWC).resize((target[1], target[0]), Image.Resampling(fit.resample))
        image_HWC = np.asarray(resized)
    if fit.crop is None or fit.crop == target:
        return image_HWC
    top, left = ((have - want) // 2 for have, want in zip(target, fit.crop, strict=True))
    return image_HWC[max(top, 0) : max(top, 0) + fit.crop[0], max(left, 0) : max(left, 0) + fit.crop[1]]


def normalised(images: list[Pixels], fit: Fit) -> npt.NDArray[np.float32]:
    """Fitted images of one size as (B, 3, H, W) floats."""
    factor = fit.scale / np.asarray(fit.std, np.float32)
    shift = np.asarray(fit.mean, np.float32) / np.asarray(fit.std, np.float32)
    values_BHWC = np.stack(images).astype(np.float32) * factor - shift
    return np.ascontiguousarray(values_BHWC.transpose(0, 3, 1, 2), dtype=np.float32)


def settled(image_HWC: Pixels, fit: Fit) -> Pixels:
    """The image resized as `fitted` does, and cropped too where fitting what is left would not resize it again.

    ``fitted`` of what comes out is ``fitted`` of the image: it can stand for it at the size of the model's input.
    """
    uncropped = fitted(image_HWC, replace(fit, crop=None))
    cropped = fitted(image_HWC, fit)
    same = fitted(cropped, fit)
    return cropped if same.shape == cropped.shape and np.array_equal(same, cropped) else uncropped
