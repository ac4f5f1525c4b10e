"""Torch on a CUDA GPU: latency and energy of an answer, the example's largest model, f32 and bf16.

Each precision is measured as a search measures a finalist: five fresh processes, one question after another, every
stamp after the GPU has finished. ``latency_p50_ms`` is the median over all answers, ``spread`` the least and the
largest p50 of a process. ``energy_j`` is joules per answer above idle, ``energy_source`` the meters that it is read
from (NVML for the GPU), or why there is none. The GPU's clocks are left as they are. Last line: one JSON object.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from hardware_profiles.agent.measure import measure
from hardware_profiles.messages import Job, Measurement, Timing
from hardware_profiles.runtimes import cuda
from search.measuring import timed_items
from search.scoring import requests
from spaces.axes import Value
from spaces.errors import BadInput
from workbench import FAMILY, workbench

PRECISIONS = ("f32", "bf16")


def main() -> None:
    """Measure every precision in turn; exit code 2 and one sentence where there is no CUDA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FAMILY[-1])
    parser.add_argument("--answers", type=int, default=130, help="timed answers of each process")
    options = parser.parse_args()
    try:
        cuda.refuse_without()
    except BadInput as error:
        print(f"cuda.py: {error}", file=sys.stderr)
        sys.exit(2)
    found = {}
    with workbench() as bench:
        asked = requests(timed_items(bench.splits["search"]))
        for precision in PRECISIONS:
            values: dict[str, Value] = {
                "model.path": str(options.model.resolve()),
                "runtime.name": "torch",
                "runtime.device": "cuda",
                "runtime.inference_precision": precision,
                "runtime.kv_cache_precision": precision,
            }
            folder, _ = bench.bundle(precision, values)
            job = Job(kind="measure", bundle=str(folder), requests=asked, min_answers=options.answers)
            found[precision] = summary(measure(job, mode="finalist"))
            print(json.dumps({precision: found[precision]}), flush=True)
    print(json.dumps({"benchmark": "cuda", "model": options.model.name, "precisions": found}))


def summary(measured: Measurement) -> dict[str, Any]:
    """What of a measurement is worth a line."""
    processes = [p50(process.timings) for process in measured.processes]
    properties = measured.processes[-1].properties
    return {
        "latency_p50_ms": p50(measured.timings),
        "ttft_p50_ms": statistics.median(timing.ttft_ms for timing in measured.timings),
        "spread": [min(processes), max(processes)],
        "energy_j": measured.energy_j,
        "energy_source": measured.energy_source,
        "verdict": measured.verdict,
        "reasons": measured.reasons,
        "gpu": {name: value for name, value in properties.items() if name.startswith("cuda") or name == "dtype"},
    }


def p50(timings: tuple[Timing, ...]) -> float:
    """The median time of a whole answer, milliseconds."""
    return statistics.median(timing.e2e_ms for timing in timings)


if __name__ == "__main__":
    main()
