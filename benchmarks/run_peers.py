"""Replays peers on a recorded table and records the replays beside it, for search_cost.py.

Runs in the environment of a peer's package, on one thread: ``OMP_NUM_THREADS=1 PYTHONPATH=. ENVIRONMENT/bin/python
benchmarks/run_peers.py --table DIR --peers NAME ...``; benchmarks/peers.lock says how that is made. As no peer looks at
what a trial costs, one replay is charged by both rules. It ends at 99 % of the true hypervolume, or after the peer's
number of trials, which is its cap where that comes before the table's. Recorded after every seed; seeds that are
recorded already are kept, unless the table or the lock has changed.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from replay import recorded
from replay.charging import RULES, Ledger, Rule
from replay.engine import Engine, Next, Seen, State
from replay.peers.catalog import PEERS, Peer
from replay.recorded import Run
from replay.replay import Event, replay
from replay.scoring import LEVELS
from replay.table import Table
from search_cost import HERE, Comparison
from spaces.errors import BadInput


class Limited:
    """An engine that has nothing left to try after so many trials."""

    def __init__(self, engine: Engine, trials: int) -> None:
        self._engine = engine
        self._left = trials

    def ask(self) -> int | None:
        self._left -= 1
        return self._engine.ask() if self._left >= 0 else None

    def proceed(self, seen: Seen) -> Next:
        return self._engine.proceed(seen)

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        self._engine.tell(seen, state, reason)

    def returned(self) -> Sequence[int]:
        return self._engine.returned()


def charged(table: Table, rule: Rule, events: Sequence[Event]) -> list[float]:
    """After each trial, what a rule charges and the engine's own time. A peer measures every built trial."""
    ledger = Ledger(table, rule)
    costs = []
    for event in events:
        ledger.build(event.row)
        if event.state in ("ok", "stopped"):
            ledger.load(event.row)
            ledger.items(event.row, event.items)
            ledger.measure(event.row)
        costs.append(ledger.total + event.suggesting)
    return costs


def run(comparison: Comparison, name: str, peer: Peer, seed: int, trials: int) -> list[Run]:
    """A peer's run under each rule, from one replay."""
    table, score = comparison.table, comparison.score
    engine = Limited(peer.make(table.ground(), seed, "plain"), min(trials, peer.trials))
    found = replay(table, engine, "plain", seed, float("inf"), lambda rows: score.relative(rows) >= LEVELS[-1])
    runs = []
    for rule in RULES:
        costs = charged(table, rule, found.events)
        changes = [
            (cost, list(event.returned))
            for cost, event in zip(costs, found.events, strict=True)
            if event.returned is not None
        ]
        runs.append(
            Run(
                engine=name,
                rule=rule,
                seed=seed,
                table=recorded.table_digest(comparison.folder),
                lock=recorded.digest(HERE / peer.lock),
                trials=len(found.events),
                suggesting=found.events[-1].suggesting,
                cap=min(comparison.caps[rule], costs[-1]),
                changes=changes,
            )
        )
    return runs


def record(comparison: Comparison, name: str, seeds: int, trials: int) -> None:
    """Replays the seeds of a peer that are not recorded yet."""
    peer = PEERS[name]
    lock = recorded.digest(HERE / peer.lock)
    try:
        runs = [run for run in recorded.read(comparison.folder, name) if run.lock == lock]
    except BadInput:
        runs = []
    for seed in range(min(seeds, peer.seeds)):
        if any(known.seed == seed for known in runs):
            continue
        runs += run(comparison, name, peer, seed, trials)
        recorded.write(comparison.folder, name, runs)
        print(shown(comparison, runs[-len(RULES) :]), flush=True)


def shown(comparison: Comparison, runs: Sequence[Run]) -> str:
    """One line: what a seed cost."""
    first = runs[0]
    cells = []
    for one in runs:
        curve = comparison.score.curve(one.changes, one.cap)
        reached = [curve.cost_to(level) for level in LEVELS]
        cells.append(f"{one.rule} " + " / ".join(f"{'>' * each.at_least}{each.cost:,.0f}" for each in reached))
    each = first.suggesting / first.trials
    trials = f"{first.engine:<16} seed {first.seed} {first.trials:>5} trials, {each:.3f} s each"
    return f"{trials}; s to {' / '.join(f'{level:.0%}' for level in LEVELS)}: {'; '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, metavar="DIR")
    parser.add_argument("--peers", nargs="+", choices=PEERS, required=True, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=20, metavar="K", help="at most so many (slow peers have fewer)")
    parser.add_argument(
        "--trials", type=int, default=10**6, metavar="N", help="at most so many (slow peers have fewer)"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the packages
    comparison = Comparison(options.table.resolve())
    for name in options.peers:
        record(comparison, name, options.seeds, options.trials)


if __name__ == "__main__":
    try:
        main()
    except (BadInput, ImportError) as error:
        sys.exit(str(error))
