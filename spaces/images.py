"""The one reader of image files, on the host and on the device. NumPy and Pillow only."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spaces.errors import BadInput

MAX_PIXELS = 50_000_000
MAX_ASPECT = 200
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow starts other programs for some of the rest
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, OverflowError)
Pixels = npt.NDArray[np.uint8]


def read_image(path: Path) -> Pixels:
    """An image file as (height, width, 3) 8-bit RGB; of 16-bit grey values the upper eight bits.

    Raises:
        BadInput: one sentence: it is missing, no plain file, damaged, larger than ``MAX_PIXELS``, longer than
            ``MAX_ASPECT`` times its width or the reverse, or of none of ``FORMATS``.
    """
    try:
        if not path.is_file():
            raise BadInput(f"{path} cannot be read as an image: the file is missing.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if max(image.size) > MAX_ASPECT * min(image.size):
                    raise BadInput(f"{path} is {image.width} by {image.height} pixels, a mere line; crop it.")
                return _rgb(image)
    except Image.DecompressionBombError:
        raise BadInput(f"{path} has more than {MAX_PIXELS:,} pixels; scale it down.") from None
    except DECODE_ERRORS as error:
        raise BadInput(
            f"{path} cannot be read as an image ({error}); give a whole file: {', '.join(FORMATS)}."
        ) from None


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        grey = (values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
