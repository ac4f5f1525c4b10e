"""Writes scikit-learn's digits (real, hand-written; Alpaydin and Kaynak 1998) as a user would have them: PNG and CSV.

    python examples/digits/make_data.py [--out examples/digits/data]

Each of the 1,797 pictures of 8x8 grey values is enlarged to 64x64. Which split a picture is in hangs on the seed alone.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = {"train": 900, "calibration": 64, "search": 320, "holdout": 513}
SIZE = 64  # pixels, both sides, as saved
SEED = 0


def write(out: Path) -> None:
    """A CSV a split, with the columns file, digit and holes (how many closed loops the digit's shape has)."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    (out / "images").mkdir(parents=True, exist_ok=True)
    start = 0
    for split, count in ROWS.items():
        with (out / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["file", "digit", "holes"])
            for index in order[start : start + count]:
                grey = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
                name = f"images/{index:04d}.png"
                Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(out / name)
                digit = int(digits.target[index])
                table.writerow([name, NAMES[digit], {0: 1, 6: 1, 8: 2, 9: 1}.get(digit, 0)])
        start += count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write scikit-learn's digits as PNG and CSV.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    write(options.out)
    print(f"{sum(ROWS.values())} rows in {options.out}")


if __name__ == "__main__":
    main()
