"""A table of six candidates whose costs and values can be followed by hand."""

from typing import Any

import numpy as np

from replay.table import Table

# Of eight items each; the second of `b` fails while it is quantized.
RIGHT = [
    [1, 1, 1, 1, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 0],
    [1, 1, 0, 0, 0, 0, 0, 0],
]
ROWS: list[tuple[Any, ...]] = [
    # model, bits, prompt, state, build, quantize, load, item, measure, latency, size
    ("a", 16, "x", "ok", 10.0, 0.0, 1.0, 0.1, 2.0, 4.0, 8.0),
    ("a", 4, "x", "ok", 10.0, 3.0, 1.0, 0.1, 2.0, 2.0, 2.0),
    ("b", 16, "x", "ok", 20.0, 0.0, 1.0, 0.2, 2.0, 8.0, 16.0),
    ("b", 4, "x", "failed", 20.0, 5.0, 0.0, 0.0, 0.0, None, None),
    ("b", 16, "y", "ok", 20.0, 0.0, 1.0, 0.3, 2.0, 9.0, 16.0),
    ("a", 4, None, "ok", 10.0, 3.0, 1.0, 0.1, 2.0, 2.0, 2.0),
]


def six() -> Table:
    right = np.array(RIGHT, dtype=bool)
    column = list(zip(*ROWS, strict=True))
    ok = np.array([state == "ok" for state in column[3]])
    values = np.stack(
        [right.mean(axis=1), *(np.array(cells, dtype=float) for cells in column[9:])],
        axis=1,
    )
    knobs: dict[str, tuple[Any, ...]] = {"model": ("a", "b"), "bits": (16, 4), "prompt": ("x", "y")}
    codes = [
        [-1 if cell is None else listed.index(cell) for cell in cells]
        for listed, cells in zip(knobs.values(), column[:3], strict=True)
    ]
    return Table(
        task="six",
        device="none",
        items=8,
        holdout_items=8,
        knobs=knobs,
        stages=("build", "quantize"),
        stage_knobs={"build": ("model",), "quantize": ("bits",)},
        objectives={"accuracy": "max", "latency_ms": "min", "size_mb": "min"},
        reference={"accuracy": 0.25, "latency_ms": 10.0, "size_mb": 20.0},
        floor={"accuracy": 0.01, "latency_ms": 0.02, "size_mb": 0.0},
        hints={"bits": {"ordered": True, "size_mb": "down"}},
        codes=np.array(codes, dtype=np.int16).T,
        state=np.array(column[3]),
        reason=np.where(ok, "", "no such kernel"),
        costs=np.array(column[4:6]).T,
        load_s=np.array(column[6]),
        item_s=np.array(column[7]),
        measure_s=np.array(column[8]),
        values=np.where(ok[:, None], values, np.nan),
        packed=np.packbits(right, axis=1),
        packed_holdout=np.packbits(~right, axis=1),
        latency_samples=[[4.0, 4.1], [2.0], [8.0], [], [9.0], [2.0]],
    )
