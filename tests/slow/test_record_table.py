"""A table of four candidates of the smallest model, recorded with the real pipeline, killed once, and read back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "inspection"
ITEMS = 44
AXES = {
    "model": {"path": [str(EXAMPLE / "models" / "inspection-n")]},
    "visual_tokens": {"keep": [1.0, 0.25], "method": "uniform"},
    "prompt": {"hint": [False, True]},
    "runtime": {"threads": 1, "inference_precision": "f32"},
}


def recipe(folder: Path) -> Path:
    (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": AXES}))
    hints = {"prompt.hint": {"ordered": True, "accuracy": "up"}}
    given = {"task": str(EXAMPLE / "task.yaml"), "space": "space.yaml", "items": ITEMS, "seed": 0, "hints": hints}
    given["reference"] = {"accuracy": 0.1, "latency_ms": 99, "size_mb": 9}
    path = folder / "record.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.record/1"} | given))
    return path


def start(path: Path, phase: str, *more: str) -> "subprocess.Popen[str]":
    script = str(ROOT / "benchmarks" / "record_table.py")
    command = [sys.executable, script, str(path), "--out", str(path.parent / "out"), "--phase", phase, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(path: Path, phase: str, *more: str) -> str:
    process = start(path, phase, *more)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0
    return said


def rows(path: Path) -> list[dict[str, Any]]:
    file = path.parent / "out" / "recording" / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
def test_a_recording_that_is_killed_goes_on_and_becomes_a_table(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    process = start(path, "build")
    while not rows(path):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = rows(path)
    run(path, "build")
    after = rows(path)
    assert after[: len(before)] == before
    assert len({row["candidate"] for row in after}) == len(after) == 4
    run(path, "measure", "--passes", "2")
    assert "0 measurements to come" in run(path, "measure", "--passes", "2")
    found = json.loads(run(path, "write", "--table", str(tmp_path / "table")).splitlines()[-1])
    assert found["objectives"] == ["accuracy", "latency_ms", "size_mb"]
    table = pyarrow.parquet.read_table(tmp_path / "table" / "trials.parquet").to_pylist()
    right = np.unpackbits(np.load(tmp_path / "table" / "answers.npy"), axis=1, count=ITEMS)
    for row, answered in zip(table, right, strict=True):
        assert (row["state"], row["reason"]) == ("ok", "")
        assert row["accuracy"] == pytest.approx(answered.mean())
        assert row["latency_ms"] > 0
        assert len(row["latency_samples"]) == 2
        assert row["cost.runtime"] > 0.1
        assert (row["cost.visual_tokens"] > 0) == (row["visual_tokens.keep"] < 1)
        assert 0.1 < row["cost.load"] < 60
        assert 1e-4 < row["cost.item"] < 1
    by = {(row["visual_tokens.keep"], row["prompt.hint"]): row for row in table}
    assert by[1.0, True]["accuracy"] > by[1.0, False]["accuracy"]  # the hint is worth 30 points to this family
