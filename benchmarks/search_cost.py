"""What a search costs until it would return 90, 95 and 99 % of a recorded table's true hypervolume, engine by engine.

Every engine is replayed on the table under both rules of charging, over seeds; its own CPU time counts. Peers are
replayed once, in an environment with their packages (benchmarks/peers.lock), and recorded beside the table;
``--rerun-peers`` does it again, for the peers whose packages are there. A run that never arrives counts as its cap, and
figures that it decides are marked ``at_least``. All figures are of replays: a trial costs what it cost when it was
recorded. Last line: one JSON object with ``table``, ``oracle``, ``cost_to`` (engine -> charging -> level),
``ratio_to_best_peer`` (charging -> level; ``as_shipped`` is ours charged as cached against peers charged plain) and
``suggestion_ms`` (CPU per trial).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from replay import recorded
from replay.charging import RULES, Ledger, Rule
from replay.engines import ENGINES, OURS, Entry
from replay.recorded import Run
from replay.replay import replay
from replay.scoring import LEVELS, Curve, Score
from replay.summary import Levels, ratios, summaries
from replay.table import Table
from spaces.errors import BadInput

HERE = Path(__file__).resolve().parent
TABLE = HERE / "tables" / "inspection"
LOCK = HERE / "peers.lock"
QUICK = 3  # seeds
# Of what trying every candidate costs under plain charging. Under cached a trial costs far less.
CAPS: Mapping[Rule, float] = {"plain": 0.1, "cached": 0.05}


def exhaustive_cost(table: Table, rule: Rule) -> float:
    """Seconds to try every candidate in full."""
    ledger = Ledger(table, rule)
    return sum(ledger.trial(row) for row in range(len(table)))


class Comparison:
    """Replays on one table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = Table.load(folder)
        self.score = Score(self.table)
        self.exhaustive = {rule: exhaustive_cost(self.table, rule) for rule in RULES}
        self.caps = {rule: share * self.exhaustive["plain"] for rule, share in CAPS.items()}
        self._digest = recorded.table_digest(folder)

    def runs(self, name: str, seeds: int, rerun_peers: bool) -> list[Run]:
        """An engine's replays under both rules: a peer's as recorded where they are, unless they shall be run again.

        None where the engine's package is missing here and nothing was recorded.
        """
        entry = ENGINES[name]
        if entry.kind == "peer" and not rerun_peers:
            found = [run for run in recorded.read(self.folder, name) if run.seed < seeds]
            if found:
                return found
        found = []
        try:
            for rule, seed in product(RULES, range(min(seeds, entry.seeds))):
                found.append(self._run(name, entry, rule, seed))
                if entry.kind == "peer" and rerun_peers:
                    recorded.write(self.folder, name, found)
        except ImportError as error:
            print(f"{name}: not run here: {error}", file=sys.stderr)
            return [run for run in recorded.read(self.folder, name) if run.seed < seeds] if rerun_peers else []
        return found

    def levels(self, runs: Sequence[Run]) -> dict[str, Levels]:
        """Charging -> level -> summary of an engine's replays."""
        return {rule: summaries([self._curve(run) for run in runs if run.rule == rule]) for rule in RULES}

    def oracle(self) -> dict[str, dict[str, float]]:
        """Charging -> level -> seconds."""
        return {
            rule: {f"{level:.2f}": round(self.score.oracle(self.table, rule, level), 1) for level in LEVELS}
            for rule in RULES
        }

    def described(self) -> dict[str, object]:
        """The table in figures."""
        return {
            "name": self.folder.name,
            "task": self.table.task,
            "device": self.table.device,
            "candidates": len(self.table),
            "ok": int(self.table.ok.sum()),
            "front": len(self.score.front),
            "objectives": list(self.table.objectives),
            "exhaustive_s": {rule: round(seconds) for rule, seconds in self.exhaustive.items()},
            "cap_s": {rule: round(seconds) for rule, seconds in self.caps.items()},
        }

    def _run(self, name: str, entry: Entry, rule: Rule, seed: int) -> Run:
        table, score = self._view(entry, seed)
        engine = entry.make(table.ground(), seed, rule)
        found = replay(table, engine, rule, seed, self.caps[rule], lambda rows: score.relative(rows) >= LEVELS[-1])
        return Run(
            engine=name,
            rule=rule,
            seed=seed,
            table=self._digest,
            lock=recorded.digest(LOCK) if entry.kind == "peer" else "",
            trials=len(found.events),
            suggesting=found.events[-1].suggesting if found.events else 0.0,
            cap=found.cap,
            changes=[(cost, list(rows)) for cost, rows in found.changes],
        )

    def _curve(self, run: Run) -> Curve:
        _, score = self._view(ENGINES[run.engine], run.seed)
        return score.curve(run.changes, run.cap)

    def _view(self, entry: Entry, seed: int) -> tuple[Table, Score]:
        if entry.view is None:
            return self.table, self.score
        view = entry.view(self.table, seed)
        return view, Score(view)


def suggestion_ms(runs: Iterable[Run]) -> float:
    """The engine's own CPU time per trial: the median over replays, in milliseconds."""
    return round(statistics.median(1000 * run.suggesting / max(1, run.trials) for run in runs), 2)


def shown(name: str, levels: Mapping[str, Levels]) -> str:
    """One line: the medians."""
    cells = [
        f"{rule} " + " / ".join(f"{'>' * one.median.at_least}{one.median.cost:,.0f}" for one in found.values())
        for rule, found in levels.items()
    ]
    return f"{name:<24} s to {' / '.join(f'{level:.0%}' for level in LEVELS)}: " + "; ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} seeds")
    parser.add_argument("--seeds", type=int, default=20, metavar="K", help="at most so many (slow engines have fewer)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME")
    parser.add_argument("--rerun-peers", action="store_true", help="replay the peers again and record them")
    options = parser.parse_args()
    seeds = QUICK if options.quick else options.seeds
    comparison = Comparison(options.table.resolve())
    levels: dict[str, dict[str, Levels]] = {}
    suggesting: dict[str, float] = {}
    for name in options.engines:
        runs = comparison.runs(name, seeds, options.rerun_peers)
        if not runs:
            continue
        levels[name] = comparison.levels(runs)
        suggesting[name] = suggestion_ms(runs)
        print(shown(name, levels[name]), flush=True)
    line = {
        "benchmark": "search_cost",
        "table": comparison.described(),
        "oracle": comparison.oracle(),
        "cost_to": {
            name: {rule: {level: one.as_json() for level, one in found.items()} for rule, found in rules.items()}
            for name, rules in levels.items()
        },
        "ratio_to_best_peer": ratios(
            levels.get(OURS, {}), {name: found for name, found in levels.items() if ENGINES[name].kind == "peer"}
        ),
        "suggestion_ms": suggesting,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"error: {error}")
