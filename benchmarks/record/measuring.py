"""The phase ``measure``: times the recorded bundles on this machine's device, as a search does, pool by pool.

In each pass every pool of :mod:`record.pooling` is measured once, in a fresh process of the device's agent, in an order
that is shuffled anew; its members take turns from pass to pass. Passes lie as far apart as they take, so that what
differs between them is the machine's repeatability. A measurement that a disturbance spoiled in every attempt is on
record with its verdict, and counts only where a pool has no other.
"""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from hardware_profiles.device import Device
from hardware_profiles.messages import JobFailed
from objectives.latency import LEAST_N, latency_figure, undisturbed
from record.journal import Journal, open_recording
from record.pooling import member, pools
from record.settings import Setup
from search.fleet import AWAY, LOCAL, open_device
from search.measuring import timed_items
from search.scoring import requests

P50 = "latency_p50_ms"


def measure(setup: Setup, out: Path, passes: int, says: Callable[[str], None]) -> None:
    """Measure what is left of so many passes.

    Raises:
        JobFailed: the device does not answer any more.
        KeyboardInterrupt: what is on record stays.
    """
    folder = open_recording(out, setup.identity)
    journal = Journal(folder / "latency.jsonl")
    every = recorded_pools(setup, out, Journal(folder / "rows.jsonl").records)
    left = to_come(every, journal.records, passes, setup.recipe.seed)
    says(f"{len(every)} pools, {len(left)} measurements to come in {passes} passes")
    stop, begun = Event(), time.monotonic()
    device = open_device(LOCAL, stop, says)
    try:
        for done, (number, candidate) in enumerate(left, 1):
            found = _measured(device, setup, out / "bundles" / candidate, number, stop)
            journal.add({"candidate": candidate, "pass": number} | found)
            hour = done / (time.monotonic() - begun) * 3600
            says(f"{done} of {len(left)}: {found.get('p50_ms') or found['reason']}; {hour:.0f} an hour")
    finally:
        stop.set()
        device.close()


def recorded_pools(setup: Setup, out: Path, rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The pools of all candidates that could be built and scored."""
    items = timed_items(setup.judged["search"])
    scored = [row for row in rows if row["state"] == "ok"]
    return pools(member(row, out / "bundles" / row["candidate"], items) for row in scored)


def to_come(
    every: Sequence[tuple[str, ...]], records: Sequence[dict[str, Any]], passes: int, seed: int
) -> list[tuple[int, str]]:
    """Pass and candidate of each measurement that is not on record, of any member of its pool."""
    done = {(record["pass"], record["candidate"]) for record in records}
    left = []
    for number in range(passes):
        lacking = [pool for pool in every if not any((number, one) in done for one in pool)]
        random.Random(f"{seed}:{number}").shuffle(lacking)
        left += [(number, pool[number % len(pool)]) for pool in lacking]
    return left


def _measured(device: Device, setup: Setup, bundle: Path, number: int, stop: Event) -> dict[str, Any]:
    """``p50_ms`` is null where the candidate cannot run, or was not measured validly."""
    asked = requests(timed_items(setup.judged["search"]))
    begun = time.monotonic()
    try:
        found = device.measure(bundle, asked, min_answers=LEAST_N, ordinal=number, cancel=stop)
    except JobFailed as error:
        if error.fault in AWAY:
            raise
        return {"p50_ms": None, "fault": error.fault, "reason": f"{error.fault}: {error.reason}"}
    return {
        "p50_ms": latency_figure(P50, found).value,
        "disturbed": not undisturbed(found),
        "retried": bool(found.retries),
        "verdict": found.verdict,
        "reason": "; ".join(found.reasons),
        "seconds": round(time.monotonic() - begun, 3),
    }
