"""Whether the 95 % interval of one measurement covers what others of the same bundle find, over HOURS.

A bundle is measured through the agent every EVERY minutes. Each measurement has its interval as a search would give
it: between two order statistics, moved out by how far p50 strays between processes, which is worked out from the first
three measurements (taken at once, as a search does) and is at least 5 %. Coverage is the share of ordered pairs (i, j)
for which the interval of i contains the p50 of j; the first three are left out of both. Measurements whose verdict is
invalid have no figure and are counted apart. Every p50 goes to OUT as it is taken, so a stop loses nothing.

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
            while time.monotonic() - begun < asked.hours * 3600 or len(found) < FIRST + 2:
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
    p50 = latency_figures(measured)["latency_p50_ms"].value
    line = {"at_s": round(at_s), "p50_ms": p50, "verdict": measured.verdict, "reasons": measured.reasons}
    print(line, flush=True)
    with out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def coverage(found: list[Measurement]) -> dict[str, object]:
    """The share of pairs that hold, and how wide the intervals are."""
    spread = between_processes(found[:FIRST])
    figures = [latency_figures(one, spread)["latency_p50_ms"] for one in found[FIRST:]]
    known = [figure for figure in figures if figure.value is not None]
    pairs = [
        figure.low <= other.value <= figure.high
        for figure, other in itertools.permutations(known, 2)
        if figure.low is not None and figure.high is not None and other.value is not None
    ]
    values = [figure.value for figure in known if figure.value is not None]
    return {
        "measurements": len(known),
        "invalid": len(figures) - len(known),
        "coverage": round(sum(pairs) / len(pairs), 4) if pairs else None,
        "spread": round(spread, 4),
        "half_width": round(
            sum((f.high - f.low) / 2 / f.value for f in known if f.value and f.low and f.high) / len(known), 4
        ),
        "most_over_least": round(max(values) / min(values), 4),
    }


if __name__ == "__main__":
    main()
