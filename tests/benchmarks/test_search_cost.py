import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search_cost
from replay import recorded
from replay.charging import Rule
from replay.engine import Engine, Ground
from replay.engines import ENGINES, OURS, Entry
from replay.listing import Listing, exhaustive
from replay.peers.catalog import PEERS
from replay.scoring import Curve, Reached, Score
from replay.summary import Summary, ratios, summaries
from replay.table import Table
from spaces.errors import BadInput
from tests.benchmarks.six_rows import six


def curve(cost: float | None, cap: float = 100.0) -> Curve:
    """Arrives at everything at a cost, or never."""
    return Curve(np.array([] if cost is None else [cost]), np.array([] if cost is None else [1.0]), cap)


def test_a_median_that_runs_that_never_arrived_decide_is_at_least() -> None:
    found = summaries([curve(cost) for cost in (40.0, 10.0, 20.0, None, 30.0)])["0.95"]
    assert (found.median, found.arrived, found.seeds) == (Reached(30.0, False), 4, 5)
    assert found.quartiles == (Reached(20.0, False), Reached(40.0, False))
    found = summaries([curve(cost) for cost in (None, 10.0, None, 20.0)])["0.99"]
    assert found.median == Reached(60.0, True)
    assert found.quartiles == (Reached(17.5, False), Reached(100.0, True))


def levels(**medians: tuple[float, bool]) -> Mapping[str, Mapping[str, Summary]]:
    return {
        rule: {"0.95": Summary(Reached(*median), (Reached(*median), Reached(*median)), 1, 1)}
        for rule, median in medians.items()
    }


def test_ours_are_compared_with_the_best_peer_of_each_charging() -> None:
    ours = levels(plain=(60.0, False), cached=(20.0, False))
    peers = {
        "slow": levels(plain=(100.0, False), cached=(40.0, False)),
        "hoarder": levels(plain=(120.0, True), cached=(25.0, False)),
    }
    assert ratios(ours, peers) == {
        "plain": {"0.95": {"ratio": 0.6, "peer": "slow", "bound": None}},
        "cached": {"0.95": {"ratio": 0.8, "peer": "hoarder", "bound": None}},
        "as_shipped": {"0.95": {"ratio": 0.2, "peer": "slow", "bound": None}},
    }
    never = {"never": levels(plain=(200.0, True), cached=(200.0, True))}
    assert ratios(ours, never)["plain"]["0.95"] == {"ratio": 0.3, "peer": "never", "bound": "at most"}


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["search_cost.py", *arguments])
    search_cost.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def backwards(ground: Ground, seed: int, rule: Rule) -> Engine:
    return Listing(ground, range(len(ground.codes))[::-1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the six candidates, no cap on what a replay may cost, and of the peers only random search."""
    six().save(tmp_path)
    for name in PEERS:
        monkeypatch.delitem(ENGINES, name)
    monkeypatch.setattr(search_cost, "CAPS", {"plain": 10.0, "cached": 10.0})
    return tmp_path


def test_the_last_line_has_every_engine_and_the_ratios(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = Entry(make=exhaustive, kind="variant", view=lambda table, seed: table.renamed(seed))
    added = {OURS: Entry(make=backwards, kind="ours"), "renamed": renamed}
    for name, entry in added.items():
        monkeypatch.setitem(ENGINES, name, entry)
    line = run_main(monkeypatch, capsys, "--table", str(folder), "--quick")
    assert line["table"]["candidates"] == 6
    # By hand: all stages, loading, eight items and measuring; then each build and each quantizing but once.
    assert line["table"]["exhaustive_s"] == {"plain": round(5 * 3 + 8 * 0.8 + 101), "cached": round(21.4 + 10 + 20 + 8)}
    assert line["cost_to"]["exhaustive"]["plain"]["0.99"]["seeds"] == 1
    assert line["cost_to"]["random"]["cached"]["0.90"]["seeds"] == 3
    assert line["cost_to"]["renamed"]["cached"]["0.99"]["arrived"] == 3
    assert line["ratio_to_best_peer"]["as_shipped"]["0.95"]["peer"] == "random"
    assert 0 < line["oracle"]["cached"]["0.99"] <= line["cost_to"]["exhaustive"]["cached"]["0.99"]["median"]


def test_peers_are_recorded_once_and_read_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--table", str(folder), "--quick", "--engines", "random"]
    again = run_main(monkeypatch, capsys, *arguments, "--rerun-peers")
    runs = recorded.read(folder, "random")
    assert [(run.rule, run.seed) for run in runs] == [(rule, seed) for rule in ("plain", "cached") for seed in range(3)]

    def never(ground: Ground, seed: int, rule: Rule) -> Engine:
        raise AssertionError("a recorded peer is not made again")

    monkeypatch.setitem(ENGINES, "random", Entry(make=never, kind="peer"))
    assert run_main(monkeypatch, capsys, *arguments) == again
    score = Score(Table.load(folder))
    assert score.curve(runs[0].changes, runs[0].cap).relative[-1] >= 0.99


def test_a_record_of_another_table_is_refused(folder: Path) -> None:
    comparison = search_cost.Comparison(folder)
    comparison.runs("random", 1, rerun_peers=True)
    six().without_hints().save(folder)
    with pytest.raises(BadInput, match=r"random\.jsonl\.gz: was recorded on another table"):
        recorded.read(folder, "random")
    (folder / "peers" / "random.jsonl.gz").write_bytes(b"x")
    with pytest.raises(BadInput, match="is no record"):
        recorded.read(folder, "random")


def test_a_peer_whose_package_is_missing_is_left_out_or_as_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(ground: Ground, seed: int, rule: Rule) -> Engine:
        raise ImportError("random is not installed")

    arguments = ["--table", str(folder), "--quick", "--engines", "random"]
    monkeypatch.setitem(ENGINES, "random", Entry(make=missing, kind="peer"))
    assert run_main(monkeypatch, capsys, *arguments)["cost_to"] == {}
    monkeypatch.setitem(ENGINES, "random", Entry(make=exhaustive, kind="peer"))
    first = run_main(monkeypatch, capsys, *arguments, "--rerun-peers")
    monkeypatch.setitem(ENGINES, "random", Entry(make=missing, kind="peer"))
    assert run_main(monkeypatch, capsys, *arguments, "--rerun-peers") == first
