from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.errors import BadInput
from spaces.images import read_image


def test_sixteen_bit_grey_keeps_its_picture(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "flat.png")
    deep, flat = read_image(tmp_path / "deep.png"), read_image(tmp_path / "flat.png")
    np.testing.assert_array_equal(deep, flat)
    np.testing.assert_array_equal(deep[:, :, 1], grey)


@pytest.mark.parametrize("size", [(1, 6000), (6000, 1)])
def test_a_line_is_no_image(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "line.png")
    with pytest.raises(BadInput, match="a mere line"):
        read_image(tmp_path / "line.png")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadInput, match="missing"):
        read_image(tmp_path / "pipe.png")
