"""What the agent costs: upload, what it adds to a measured latency, how well that repeats, and seconds a measurement.

The agent is the one that a search starts on this machine, asked over TLS on loopback.

- Upload: one blob of BLOB_MB random megabytes, hashing and fsync included; beside it the share of a core that agent and
  host took meanwhile (user and system time over wall time).
- Added: the largest model's bundle is measured in turn through the agent and by hand, ROUNDS times, in an order that
  changes each round; the ratio of the medians of p50, and each way's own spread. By hand is the bare runner, a job on
  its stdin: no confinement, no control group, no sensors, nobody who listens while it answers. The agent repeats
  what was disturbed and keeps the best, so beside other work it looks too good: run this on a quiet machine.
- Repeatability: of those p50 (each from a fresh process): standard deviation over mean, and most over least.
- Seconds: wall time of a provisional and of a finalist measurement, the bundle being on the device already.

Last line: one JSON object.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from hardware_profiles.agent.supervisor import RUNNER
from hardware_profiles.devices import open_device
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import Job, Request, encode
from search.measuring import timed_items
from search.scoring import requests
from spaces.axes import Value
from spaces.canonical import file_digest
from workbench import FAMILY, workbench

PLAIN: dict[str, Value] = {"model.path": str(FAMILY[-1])}
BLOB_MB = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    device = open_device("local", cancel=Event(), waiting=print)
    assert isinstance(device, RemoteDevice)
    try:
        with workbench() as bench:
            bundle = bench.bundle("plain", PLAIN)[0]
            asked = requests(timed_items(bench.splits["search"]))
            found = {"upload": upload(device), **latencies(device, bundle, asked, rounds)}
    finally:
        device.close()
    print(json.dumps({"benchmark": "agent", "model": FAMILY[-1].name, "rounds": rounds, **found}))


def upload(device: RemoteDevice) -> dict[str, float]:
    """Megabytes (10^6 bytes) a second of one large blob, and the cores that it took."""
    with tempfile.NamedTemporaryFile() as blob:
        for _ in range(BLOB_MB):
            blob.write(os.urandom(1_000_000))
        blob.flush()
        digest = "sha256:" + file_digest(Path(blob.name))
        agent, host, start = device_cpu_s(device), own_cpu_s(), time.perf_counter()
        device.upload({digest: Path(blob.name)}, Event())
        wall = time.perf_counter() - start
        agent, host = device_cpu_s(device) - agent, own_cpu_s() - host
    found = {"mb_s": BLOB_MB / wall, "agent_cores": agent / wall, "host_cores": host / wall}
    print("upload", found, flush=True)
    return {name: round(value, 3) for name, value in found.items()}


def latencies(device: RemoteDevice, bundle: Path, asked: Sequence[Request], rounds: int) -> dict[str, object]:
    """What the agent adds, how well p50 repeats, and how long measurements take."""
    p50: dict[str, list[float]] = {"agent": [], "by hand": []}
    seconds: dict[str, list[float]] = {"provisional": [], "finalist": []}
    device.measure(bundle, asked, cancel=Event())
    for _ in range(rounds):
        for way in random.sample(["agent", "by hand"], 2):
            start = time.perf_counter()
            if way == "agent":
                result = device.measure(bundle, asked, cancel=Event())
                seconds["provisional"].append(time.perf_counter() - start)
                p50[way].append(statistics.median(timing.e2e_ms for timing in result.timings))
                print(result.verdict, *result.reasons)
            else:
                p50[way].append(by_hand(bundle, asked))
            print(way, round(p50[way][-1], 3), flush=True)
    start = time.perf_counter()
    device.measure(bundle, asked, mode="finalist", cancel=Event())
    seconds["finalist"].append(time.perf_counter() - start)
    middle = {way: statistics.median(values) for way, values in p50.items()}
    return {
        "p50_ms": {way: round(value, 3) for way, value in middle.items()},
        "added": round(middle["agent"] / middle["by hand"] - 1, 4),
        "added_pairwise": round(
            statistics.median(a / b for a, b in zip(p50["agent"], p50["by hand"], strict=True)) - 1, 4
        ),
        "repeatability": {
            way: {
                "cv": round(statistics.stdev(values) / statistics.mean(values), 4),
                "most_over_least": round(max(values) / min(values), 4),
            }
            for way, values in p50.items()
        },
        "seconds": {mode: round(statistics.median(values), 2) for mode, values in seconds.items()},
    }


def by_hand(bundle: Path, asked: Sequence[Request]) -> float:
    """The p50 in milliseconds of a runner that is started bare and read when it has ended."""
    job = Job(kind="measure", bundle=str(bundle), requests=tuple(asked))
    done = subprocess.run(RUNNER, input=encode(job).encode() + b"\n", stdout=subprocess.PIPE, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    times: list[float] = [event["timing"]["e2e_ms"] for event in events if event["event"] == "timing"]
    return statistics.median(times)


def own_cpu_s() -> float:
    """User and system seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def device_cpu_s(device: RemoteDevice) -> float:
    """The same of the agent that this process started (proc(5), fields 14 and 15 of stat)."""
    assert device.agent_pid is not None
    fields = Path(f"/proc/{device.agent_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
