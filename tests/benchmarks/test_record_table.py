import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from objectives.records import ScoredAnswer
from record import table
from record.building import build
from record.journal import Journal
from record.measuring import to_come
from record.pooling import pools
from record.rows import packed
from record.table import write
from spaces.errors import BadInput
from tests.benchmarks.recorded import ITEMS, SECONDS, is_right, make_setup, replace_slow

P50 = {"fp16": 8.0, "int8": 6.0}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of which nothing was measured."""
    folder = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_slow(monkeypatch)
        build(make_setup(folder / "in"), folder / "out", 1, lambda _: None)
    return folder / "out"


@pytest.fixture
def recording(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in which what is equally quantized is one pool."""

    def by_bits(_setup: Any, _out: Path, rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
        ok = [row for row in rows if row["state"] == "ok"]
        pool = [[r["candidate"] for r in ok if r["values"]["quantization.weights"] == bits] for bits in P50]
        return [tuple(one) for one in pool]

    monkeypatch.setattr(table, "recorded_pools", by_bits)
    shutil.copytree(built / "recording", tmp_path / "out" / "recording")
    return tmp_path / "out"


def measured(out: Path) -> None:
    """Two passes, the second 2 % slower."""
    journal = Journal(out / "recording" / "latency.jsonl")
    rows = Journal(out / "recording" / "rows.jsonl").records
    for number, factor in enumerate((1.0, 1.02)):
        for bits, p50 in P50.items():
            first = next(r for r in rows if r["state"] == "ok" and r["values"]["quantization.weights"] == bits)
            found = {
                "p50_ms": p50 * factor,
                "disturbed": False,
                "retried": False,
                "verdict": "valid",
                "reason": "",
                "seconds": 1.5,
            }
            journal.add({"candidate": first["candidate"], "pass": number} | found)


def test_a_table_has_what_its_description_says(recording: Path, tmp_path: Path) -> None:
    measured(recording)
    found = write(make_setup(tmp_path / "in"), recording, tmp_path / "table", partial=False)
    header = json.loads((tmp_path / "table" / "table.json").read_text())
    assert header["schema"] == "vlmfront.table/1"
    assert header["stages"] == ["model", "pruning", "tuning", "runtime", "quantization"]
    assert header["stage_knobs"] == {
        "model": ["model.path"],
        "pruning": ["pruning.ffn"],
        "tuning": ["tuning.method", "tuning.steps"],
        "runtime": [],
        "quantization": ["quantization.weights"],
    }
    assert header["knobs"]["tuning.steps"] == [5, 7]
    assert header["objectives"] == {"accuracy": "max", "latency_ms": "min", "size_mb": "min"}
    assert header["floor"]["accuracy"] == 1 / ITEMS
    assert 0.01 < header["floor"]["latency_ms"] < 0.06
    assert found["rows"] == 48

    columns = pyarrow.parquet.read_table(tmp_path / "table" / "trials.parquet")
    kinds = {field.name: str(field.type) for field in columns.schema}
    assert kinds == {
        "candidate": "string",
        "deployed": "string",
        "model.path": "string",
        "pruning.ffn": "double",
        "tuning.method": "string",
        "tuning.steps": "int64",
        "quantization.weights": "string",
        "prompt.hint": "bool",
        "state": "string",
        "reason": "string",
        **dict.fromkeys((f"cost.{stage}" for stage in header["stages"]), "double"),
        **dict.fromkeys(("cost.load", "cost.item", "cost.measure"), "double"),
        **dict.fromkeys(header["objectives"], "double"),
        "latency_samples": "list<element: double>",
    }
    for row in columns.to_pylist():
        check(row)


def check(row: dict[str, Any]) -> None:
    refused = row["model.path"] == "b" and row["pruning.ffn"] > 0
    assert row["tuning.steps"] in ((None,) if row["tuning.method"] == "none" else (5, 7))
    assert row["cost.model"] == SECONDS["model"]
    assert row["cost.pruning"] == (SECONDS["pruning"] if row["pruning.ffn"] else 0.0)
    if refused:
        assert (row["state"], row["cost.tuning"], row["cost.quantization"]) == ("failed", None, None)
    else:
        assert row["cost.tuning"] == (SECONDS["tuning"] if row["tuning.method"] == "lora" else 0.0)
        assert row["cost.runtime"] == SECONDS["runtime"]
        assert row["cost.quantization"] == (SECONDS["quantization"] if row["quantization.weights"] == "int8" else 0.0)
    if row["state"] == "ok":
        right = sum(is_right(row, f"search{n}") for n in range(ITEMS))
        assert row["accuracy"] == pytest.approx(right / ITEMS, abs=1e-12)
        p50 = P50[row["quantization.weights"]]
        assert row["latency_samples"] == pytest.approx([p50, p50 * 1.02])
        assert row["latency_ms"] == pytest.approx(p50 * 1.01)
        assert row["cost.measure"] == 1.5
    else:
        assert row["accuracy"] is row["latency_ms"] is row["size_mb"] is None


def test_answers_are_the_items_right_or_wrong_in_order(recording: Path, tmp_path: Path) -> None:
    write(make_setup(tmp_path / "in"), recording, tmp_path / "table", partial=True)
    rows = pyarrow.parquet.read_table(tmp_path / "table" / "trials.parquet").to_pylist()
    for name, split in (("answers", "search"), ("answers_holdout", "holdout")):
        bits = np.load(tmp_path / "table" / f"{name}.npy")
        assert (bits.dtype, bits.shape) == (np.uint8, (48, 3))
        for row, given in zip(rows, bits, strict=True):
            right = [row["state"] == "ok" and is_right(row, f"{split}{n}") for n in range(ITEMS)]
            assert np.array_equal(given, np.packbits(right))


def test_before_latency_is_measured_a_table_has_the_other_objectives(recording: Path, tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "in")
    with pytest.raises(BadInput, match="passes of latency"):
        write(setup, recording, tmp_path / "table", partial=False)
    write(setup, recording, tmp_path / "table", partial=True)
    header = json.loads((tmp_path / "table" / "table.json").read_text())
    assert list(header["objectives"]) == list(header["reference"]) == list(header["floor"]) == ["accuracy", "size_mb"]
    assert header["hints"] == {"quantization.weights": {"ordered": True, "size_mb": "down"}}


def test_packing_is_numpys() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 8, 19, 400):
        right = rng.integers(0, 2, n).astype(bool)
        answers = [ScoredAnswer(id=str(k), answer="", score=float(one)) for k, one in enumerate(right)]
        assert bytes.fromhex(packed(answers)) == np.packbits(right).tobytes()
        assert np.array_equal(np.unpackbits(np.frombuffer(bytes.fromhex(packed(answers)), np.uint8), count=n), right)


def test_what_is_on_record_is_not_measured_again() -> None:
    every = [("a", "b"), ("c",), ("d", "e", "f")]
    whole = to_come(every, [], 3, seed=0)
    assert sorted(whole) == [(0, "a"), (0, "c"), (0, "d"), (1, "b"), (1, "c"), (1, "e"), (2, "a"), (2, "c"), (2, "f")]
    done = [{"pass": number, "candidate": one} for number, one in whole[:4]]
    assert sorted(to_come(every, done, 3, seed=0)) == sorted(whole[4:])
    assert sorted(to_come(every, [{"pass": 0, "candidate": "b"}], 1, seed=0)) == [(0, "c"), (0, "d")]
    assert pools([]) == []
