import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from replay.analytic import PROBLEMS, analytic
from replay.synthetic import family
from replay.table import Table
from spaces.errors import BadInput
from tests.benchmarks.six_rows import six


def candidates(table: Table) -> list[dict[str, object]]:
    knobs = table.knobs.items()
    return [
        {name: None if code < 0 else listed[code] for (name, listed), code in zip(knobs, row, strict=True)}
        for row in table.codes
    ]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    table = six()
    table.save(tmp_path)
    loaded = Table.load(tmp_path)
    assert candidates(loaded) == candidates(table)
    assert [type(value) for value in loaded.knobs["bits"]] == [int, int]
    np.testing.assert_array_equal(loaded.values, table.values)
    np.testing.assert_array_equal(loaded.answers, table.answers)
    np.testing.assert_array_equal(loaded.holdout, ~table.answers)
    np.testing.assert_array_equal(loaded.costs, table.costs)
    for name in ("load_s", "item_s", "measure_s", "state", "reason"):
        assert getattr(loaded, name).tolist() == getattr(table, name).tolist()
    assert loaded.latency_samples == table.latency_samples
    assert loaded.hints == table.hints
    assert loaded.measured == {"latency_ms"}
    assert loaded.logarithmic == {"latency_ms", "size_mb"}


def test_null_cells_are_knobs_that_do_not_count(tmp_path: Path) -> None:
    six().save(tmp_path)
    assert pyarrow.parquet.read_table(tmp_path / "trials.parquet").column("prompt").to_pylist()[-1] is None
    assert Table.load(tmp_path).codes[-1].tolist() == [0, 1, -1]


def test_values_of_several_types_survive(tmp_path: Path) -> None:
    table = six()
    table = type(table)(**vars(table) | {"knobs": {**table.knobs, "bits": ("none", 4), "prompt": (True, 0.5)}})
    table.save(tmp_path)
    assert Table.load(tmp_path).knobs["bits"] == ("none", 4)
    assert candidates(Table.load(tmp_path)) == candidates(table)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_table_without_items_needs_no_answers(problem: str, tmp_path: Path) -> None:
    analytic(problem, 1).save(tmp_path)
    loaded = Table.load(tmp_path)
    assert loaded.answers.shape == (len(loaded), 0)
    assert not (tmp_path / "answers.npy").exists()


def edit_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "table.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def edit_cell(column: str, row: int, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "trials.parquet"
        columns = pyarrow.parquet.read_table(path).to_pydict()
        columns[column][row] = value
        pyarrow.parquet.write_table(pyarrow.table(columns), path)

    return edit


def without_column(folder: Path) -> None:
    path = folder / "trials.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["cost.build"]), path)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: (folder / "table.json").unlink(), "table.json: cannot be read"),
    "not json": (lambda folder: (folder / "table.json").write_text("{"), "table.json: is not JSON"),
    "schema": (edit_header(lambda c: c.update(schema="other/1")), "table.json: schema"),
    "items": (edit_header(lambda c: c.update(items=0)), "table.json: items"),
    "floor": (edit_header(lambda c: c["floor"].update(accuracy=-1)), r"floor\.accuracy"),
    "relative floor": (edit_header(lambda c: c["floor"].update(latency_ms=3)), r"floor\.latency_ms"),
    "reference": (edit_header(lambda c: c["reference"].pop("size_mb")), "reference"),
    "direction": (edit_header(lambda c: c["objectives"].update(size_mb="less")), r"objectives\.size_mb"),
    "stage of nothing": (edit_header(lambda c: c["stage_knobs"]["build"].append("bit")), r"stage_knobs\.build.*'bit'"),
    "hint": (edit_header(lambda c: c["hints"]["bits"].update(size_mb="left")), r"hints\.bits\.size_mb"),
    "reserved": (edit_header(lambda c: c["knobs"].update(state=["a"])), "knobs.*rename 'state'"),
    "cost": (edit_header(lambda c: c["stages"].append("load")), "stages: has 'load'"),
    "twice": (edit_header(lambda c: c["knobs"]["bits"].append(4.0)), r"knobs\.bits"),
    "value": (edit_cell("bits", 2, 5), "column 'bits', row 2: 5"),
    "state": (edit_cell("state", 0, "done"), "column 'state', row 0"),
    "objective": (edit_cell("latency_ms", 1, None), "column 'latency_ms', row 1"),
    "ratio": (edit_cell("size_mb", 1, 0.0), "column 'size_mb', row 1"),
    "negative": (edit_cell("cost.quantize", 4, -1.0), "column 'cost.quantize', row 4"),
    "accuracy": (edit_cell("accuracy", 4, 0.5), "column 'accuracy', row 4: 0.5 is not the mean"),
    "duplicate": (edit_cell("prompt", 5, "x"), "row 5: the candidate was listed before"),
    "column": (without_column, "no column 'cost.build'"),
    "parquet": (lambda folder: (folder / "trials.parquet").write_bytes(b"x"), "cannot be read as Parquet"),
    "answers": (lambda folder: np.save(folder / "answers.npy", np.zeros((5, 1), np.uint8)), r"answers\.npy.*\(6, 1\)"),
    "pickled": (lambda folder: np.save(folder / "answers.npy", np.array([{}])), r"answers\.npy: cannot be read"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_table_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    spoil, message = SPOILED[case]
    six().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(BadInput, match=message):
        Table.load(tmp_path)


def test_renamed_is_the_same_table_under_other_names() -> None:
    table = family(3, items=16)
    other = table.renamed(5)
    assert not set(other.knobs) & set(table.knobs)
    assert not set(other.stages) & set(table.stages)
    assert other.knobs != table.renamed(6).knobs
    assert not any(
        isinstance(value, str) and value in table.knobs["prompt"] for v in other.knobs.values() for value in v
    )

    def contents(t: Table) -> list[tuple[object, ...]]:
        columns = (
            t.state,
            t.costs.sum(axis=1),
            t.item_s,
            t.measure_s,
            np.nan_to_num(t.values[:, 1]),
            t.answers.sum(axis=1),
        )
        return sorted(zip(*(column.tolist() for column in columns), strict=True), key=repr)

    assert contents(other) == contents(table)
    # A stage is shared by as many candidates as before.
    for k in range(len(table.stages)):
        assert sorted(np.bincount(other.prefixes[:, k])) == sorted(np.bincount(table.prefixes[:, k]))


def test_renamed_keeps_the_order_that_is_hinted() -> None:
    table = family(3, items=16)
    other = table.renamed(5)
    bits = next(knob for knob, values in other.knobs.items() if values == table.knobs["bits"])
    assert other.hints[bits] == table.hints["bits"]
    size = list(other.objectives).index("size_mb")
    column = other.codes[:, list(other.knobs).index(bits)]
    means = [np.nanmean(other.values[column == code, size]) for code in range(len(other.knobs[bits]))]
    assert means == sorted(means, reverse=True)
    assert table.without_hints().hints == {}


def test_different_seeds_let_different_candidates_win() -> None:
    best = set()
    for seed in range(6):
        table = family(seed, items=200)
        best.add(tuple(table.codes[np.nanargmax(table.values[:, 0])]))
    assert len(best) >= 4


def test_answers_of_candidates_that_share_knobs_are_correlated() -> None:
    table = family(0, items=200)
    near = np.flatnonzero(table.ok & (table.prefixes[:, 1] == table.prefixes[np.flatnonzero(table.ok)[0], 1]))[:20]
    right = table.answers[near].astype(float)
    spread = right.std(axis=1)
    paired = np.corrcoef(right[spread > 0])
    assert np.median(paired[np.triu_indices_from(paired, 1)]) > 0.2
