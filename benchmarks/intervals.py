"""Whether the 95 % interval of one measurement covers what others of the same bundle find, over HOURS.

A bundle is measured through the agent every EVERY minutes. As in a search some measurements are the reference's: the
first three, at once, and then every other one. The rest stand for trials: each has its interval as a search gives it in
the end, between two order statistics, moved out by how far p50 strays between processes, which all references tell (at
least 5 %). Coverage is the share of ordered pairs (i, j) of trials for which the interval of i contains the p50 of j.
``early`` is the same with what the first three references tell, which is all that the first trials of a search know
when they are told. Measurements whose verdict is invalid have no figure and are counted apart. Every p50 goes to OUT as
it is taken, so a stop loses nothing.

Last line: one JSON object.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from threading import Event

from hardware_profiles.devices import open_device
from hardware_profiles.messages import Measurement
from objectives.latency import between_processes, latency_figures
from search.measuring import timed_items
from search.scoring import requests
from spaces.axes import Value
from workbench import FAMILY, workbench

PLAIN: dict[str, Value] = {"model.path": str(FAMILY[-1])}
FIRST = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=2.0, help="minutes")
    parser.add_argument("--out", type=Path, default=Path("intervals.jsonl"))
    asked = parser.parse_args()
    device = open_device("local", cancel=Event(), waiting=print)
    try:
        with workbench() as bench:
            bundle = bench.bundle("plain", PLAIN)[0]
            items = requests(timed_items(bench.splits["search"]))
            found: list[Measurement] = []
            begun = time.monotonic()
            while time.monotonic() - begun < asked.hours * 3600 or len(found) < FIRST + 4:
                found.append(device.measure(bundle, items, cancel=Event()))
                note(asked.out, found[-1], time.monotonic() - begun)
                if len(found) >= FIRST:
                    time.sleep(asked.every * 60)
            hours = (time.monotonic() - begun) / 3600
    finally:
        device.close()
    print(json.dumps({"benchmark": "intervals", "model": FAMILY[-1].name, "hours": round(hours, 2), **coverage(found)}))


def note(out: Path, measured: Measurement, at_s: float) -> None:
    """One line for each measurement."""
    p50 = latency_figures(measured, 0.0)["latency_p50_ms"]
    line = {"at_s": round(at_s), "p50_ms": p50.value, "low": p50.low, "high": p50.high, "reasons": measured.reasons}
    print(line, flush=True)
    with out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def coverage(found: list[Measurement]) -> dict[str, object]:
    """The share of pairs that hold, and how wide the intervals are."""
    references, trials = found[:FIRST] + found[FIRST + 1 :: 2], found[FIRST::2]
    known = [p50 for one in trials if (p50 := latency_figures(one)["latency_p50_ms"].value) is not None]
    return {
        "references": len(references),
        "trials": len(known),
        "invalid": len(trials) - len(known),
        **held(trials, between_processes(references)),
        "early": held(trials, between_processes(references[:FIRST])),
        "most_over_least": round(max(known) / min(known), 4),
    }


def held(trials: list[Measurement], spread: float) -> dict[str, float | None]:
    """The share of ordered pairs that hold with intervals of this spread, and the intervals' mean half-width."""
    figures = [latency_figures(one, spread)["latency_p50_ms"] for one in trials]
    known = [(one.value, one.low, one.high) for one in figures if one.value and one.low and one.high]
    pairs = [low <= other[0] <= high for (_, low, high), other in itertools.permutations(known, 2)]
    return {
        "coverage": round(sum(pairs) / len(pairs), 4) if pairs else None,
        "spread": round(spread, 4),
        "half_width": round(sum((high - low) / 2 / value for value, low, high in known) / len(known), 4),
    }


if __name__ == "__main__":
    main()
