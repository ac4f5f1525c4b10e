"""What bits and visual tokens do to the largest model's latency, against how well one configuration repeats.

Every configuration is measured in ROUNDS fresh processes, all of them once a round, so that a drift of the machine
meets them alike. An effect is the median over rounds of the ratio to the unchanged configuration in the same round. The
repeatability is ISO 5725-6's limit for two measurements of one configuration, 2.8 standard deviations, as a share of
its mean: the unchanged configuration is measured twice a round for it. Last line: one JSON object.
"""

import argparse
import json
import statistics

from hardware_profiles.agent.measure import measure
from hardware_profiles.messages import Job
from search.measuring import TIMED_ITEMS
from search.scoring import requests
from spaces.axes import Value
from workbench import FAMILY, workbench

PLAIN: dict[str, Value] = {"model.path": str(FAMILY[-1])}
CONFIGURATIONS: dict[str, dict[str, Value]] = {
    "fp16": PLAIN,
    "fp16 again": PLAIN,
    "int8": PLAIN | {"quantization.weights": "int8"},
    "int4": PLAIN | {"quantization.weights": "int4", "quantization.group_size": 64},
    "tokens 50 %": PLAIN | {"visual_tokens.keep": 0.5},
    "tokens 25 %": PLAIN | {"visual_tokens.keep": 0.25},
    "bf16 arithmetic": PLAIN | {"runtime.inference_precision": "bf16"},
    "hint": PLAIN | {"prompt.hint": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    p50: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    with workbench() as bench:
        bundles = {
            name: bench.bundle(name.replace(" ", "-").replace("%", "pc"), values)[0]
            for name, values in CONFIGURATIONS.items()
        }
        asked = requests(bench.splits["search"][:TIMED_ITEMS])
        for _ in range(rounds):
            for name, bundle in bundles.items():
                result = measure(Job(kind="measure", bundle=str(bundle), requests=asked))
                p50[name].append(statistics.median(timing.e2e_ms for timing in result.timings))
    twice = [value for pair in zip(p50["fp16"], p50["fp16 again"], strict=True) for value in pair]
    limit = 2.8 * statistics.stdev(twice) / statistics.mean(twice)
    effects = {}
    for name in CONFIGURATIONS:
        if not name.startswith("fp16"):
            change = statistics.median(a / b for a, b in zip(p50[name], p50["fp16"], strict=True)) - 1
            effects[name] = {
                "p50_ms": round(statistics.median(p50[name]), 3),
                "change": round(change, 4),
                "times_repeatability": round(abs(change) / limit, 2),
            }
            print(name, effects[name], flush=True)
    print(
        json.dumps(
            {
                "benchmark": "effects",
                "model": FAMILY[-1].name,
                "rounds": rounds,
                "fp16_p50_ms": round(statistics.median(twice), 3),
                "repeatability": round(limit, 4),
                "effects": effects,
            }
        )
    )


if __name__ == "__main__":
    main()
