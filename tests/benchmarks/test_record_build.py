import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.store import Store, append
from record import journal
from record.building import build
from record.journal import Journal
from spaces.errors import BadInput
from tests.benchmarks.recorded import CRASHES, FAILS, ITEMS, SECONDS, StandIn, is_right, make_setup, replace_slow


class Killed(BaseException):
    """The process is gone."""


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "recording" / f"{name}.jsonl").read_text().splitlines()]


def told(out: Path) -> dict[str, Any]:
    """What is on record, without what a clock says."""
    clocks = {"wall_s", "load_s", "item_s"}
    return {row["candidate"]: {k: v for k, v in row.items() if k not in clocks} for row in lines(out, "rows")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that nothing interrupted."""
    folder = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as monkeypatch:
        replace_slow(monkeypatch)
        build(make_setup(folder / "in"), folder / "whole", 1, lambda _: None)
    return folder / "whole"


def test_each_candidate_is_on_record_with_what_it_answered_and_cost(whole: Path, tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "in")
    tree = setup.tree(0)
    rows = {row["candidate"]: row for row in lines(whole, "rows")}
    costs = {stage["key"]: stage for stage in lines(whole, "stages")}
    assert set(rows) == {one.id for one in setup.space.candidates()}
    assert len(rows) == 48
    for candidate in setup.space.candidates():
        row, values = rows[candidate.id], dict(candidate.values)
        keys = [stage.key for stage in tree.plan(candidate)]
        if values["model.path"] == FAILS[0] and values["pruning.ffn"]:
            assert (row["state"], row["reason"], row["stages"]) == ("failed", FAILS[2], keys[:2])
        elif CRASHES.items() <= values.items():
            assert (row["state"], row["reason"], row["stages"]) == ("failed", "CRASH: it died", keys)
        else:
            assert (row["state"], row["stages"]) == ("ok", keys)
            for split in ("search", "holdout"):
                bits = np.unpackbits(np.frombuffer(bytes.fromhex(row[split]), np.uint8))[:ITEMS]
                assert bits.tolist() == [is_right(values, f"{split}{n}") for n in range(ITEMS)]
    for one in costs.values():
        assert one["cpu_s"] == SECONDS[one["stage"]]


def test_nothing_is_built_twice_and_nothing_stays_in_the_store(whole: Path) -> None:
    stages = lines(whole, "stages")
    assert len({one["key"] for one in stages}) == len(stages)
    store = Store(whole / "store")
    assert not list((store.root / "entries").glob("*.json"))
    assert not list((store.root / "blobs").glob("*/*"))
    assert len(list((whole / "bundles").iterdir())) == 48 - 12  # what could be bound is kept, to be measured


def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Kill at the n-th moment: before a line is written, within it, and when an artifact is in the store."""
    real = append
    count = [0]

    def strike(at: int) -> None:
        count[0] = at

    def due() -> bool:
        count[0] -= 1
        return count[0] == 0

    def torn(path: Path, content: bytes) -> None:
        if due():
            raise Killed
        if due():
            real(path, content[: len(content) // 2])
            raise Killed
        real(path, content)

    def built() -> None:
        if due():
            raise Killed

    monkeypatch.setattr(journal, "append", torn)
    monkeypatch.setattr(StandIn, "killed", staticmethod(built))
    yield strike


def test_a_kill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_slow(monkeypatch)
    setup = make_setup(tmp_path / "in", tuning={"method": "none"})
    build(setup, whole := tmp_path / "whole", 1, lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    strike = next(kills(monkeypatch))
    moments = 0
    for first in range(1, 61, 4):
        out = tmp_path / f"killed{first}"
        ended, at = False, first
        while not ended:
            strike(at)
            try:
                build(setup, out, 1, lambda _: None)
                ended = True
            except Killed:
                moments += 1
            at += 17  # the next kill comes later than what is redone
        assert told(out) == told(whole)
        assert len(lines(out, "rows")) == 16
        known = [(one["key"], one["stage"], one["cpu_s"]) for one in lines(out, "stages")]
        assert sorted(known) == sorted((one["key"], one["stage"], one["cpu_s"]) for one in lines(whole, "stages"))
        assert not list((out / "store" / "entries").glob("*.json"))
    assert moments > 20


def test_two_workers_record_the_same(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_slow(monkeypatch)
    build(make_setup(tmp_path / "in"), tmp_path / "two", 2, lambda _: None)
    assert told(tmp_path / "two") == told(whole)


def test_another_recipe_does_not_go_on_with_a_recording(whole: Path, tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "in")
    (tmp_path / "in" / "a" / "config.json").write_text("another model")
    with pytest.raises(BadInput, match="another space, other rows or models"):
        build(setup, whole, 1, lambda _: None)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    Journal(path).add({"a": 1})
    with path.open("ab") as stream:
        stream.write(b'{"a": 2, "b')
    again = Journal(path)
    assert again.records == [{"a": 1}]
    again.add({"a": 3})
    assert path.read_text() == '{"a":1}\n{"a":3}\n'
