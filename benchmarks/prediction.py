"""How well latency and memory are predicted from work and 16 anchors, and how often that refuses what would have fit.

Bundles of the example's four models, pruned, with fewer visual tokens, quantized or in bf16, are measured in ROUNDS
fresh processes, all of them once a round, so that a drift of the machine meets them alike; a bundle's figure is the
median. No verdict is asked for, which on a busy machine would repeat most of them. Then, DRAWS times, 16 of them are
drawn as anchors and the others are predicted: error, coverage of the interval, and over a range of limits how many that
fit are refused because the interval's low end misses the limit.
Last line: one JSON object.
"""

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from threading import Event

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.calibration import measured_here
from hardware_profiles.messages import Job, Process
from hardware_profiles.profile import Profile, local
from hardware_profiles.roofline import Anchor, Prediction, calibrate, predict, roof_ms
from search.measuring import TIMED_ITEMS
from search.scoring import requests
from spaces.axes import Value
from spaces.shape import read_shape
from spaces.work import work
from workbench import FAMILY, Workbench, workbench

ANCHORS = 16
RUNTIME = "openvino"
Values = dict[str, Value]


def settings(bf16: bool) -> Iterator[tuple[str, Values]]:
    """Every model with each of eight settings, by name."""
    changes: dict[str, Values] = {
        "plain": {},
        "half the tokens": {"visual_tokens.keep": 0.5},
        "a quarter of the tokens": {"visual_tokens.keep": 0.25},
        "ffn halved": {"pruning.ffn": 0.5},
        "ffn halved, half the tokens": {"pruning.ffn": 0.5, "visual_tokens.keep": 0.5},
        "a layer less": {"pruning.layers": 0.34},
        "int8": {"quantization.weights": "int8"},
        "int8, half the tokens": {"quantization.weights": "int8", "visual_tokens.keep": 0.5},
    }
    if bf16:
        changes["bf16"] = {"runtime.inference_precision": "bf16"}
        changes["bf16, half the tokens"] = {"runtime.inference_precision": "bf16", "visual_tokens.keep": 0.5}
    for model, (name, change) in product(FAMILY, changes.items()):
        yield f"{model.name} {name}", {"model.path": str(model), **change}


def measured(bench: Workbench, rounds: int, bf16: bool) -> dict[str, Anchor]:
    asked = requests(bench.splits["search"][:TIMED_ITEMS])
    bundles: dict[str, Path] = {}
    works = {}
    for name, values in settings(bf16):
        bundles[name], _ = bench.bundle(name.replace(" ", "-").replace(",", ""), values)
        space = bench.space(values)
        candidate = space.candidate(values)
        choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
        works[name] = work(read_shape(Path(str(values["model.path"]))), choices)
    latency: dict[str, list[float]] = {name: [] for name in bundles}
    memory: dict[str, list[float]] = {name: [] for name in bundles}
    for number in range(rounds):
        for name, bundle in bundles.items():
            result = run_job(Job(kind="measure", bundle=str(bundle), requests=asked), cancel=Event())
            assert isinstance(result, Process)
            latency[name].append(statistics.median(timing.e2e_ms for timing in result.timings))
            memory[name].append(result.memory_peak_bytes)
        print(f"round {number + 1} of {rounds}", flush=True)
    return {
        name: Anchor(
            work=works[name],
            latency_ms=statistics.median(latency[name]),
            memory_bytes=statistics.median(memory[name]),
        )
        for name in bundles
    }


def judged(profile: Profile, known: Sequence[Anchor], draws: int) -> dict[str, float]:
    """Figures over all draws of anchors and all bundles that were not drawn."""
    rng = random.Random(0)
    limits = sorted(one.latency_ms for one in known)
    errors, memory_errors, covered, memory_covered = [], [], [], []
    fit = refused_wrongly = miss = refused_rightly = 0
    for _ in range(draws):
        drawn = set(rng.sample(range(len(known)), ANCHORS))
        calibration = calibrate([known[place] for place in sorted(drawn)], profile, RUNTIME)
        for place in set(range(len(known))) - drawn:
            one = known[place]
            found: Prediction = predict(one.work, profile, RUNTIME, calibration)
            assert found.latency_ms
            errors.append(abs(found.latency_ms.value / one.latency_ms - 1))
            memory_errors.append(abs(found.memory_bytes.value / one.memory_bytes - 1))
            covered.append(found.latency_ms.low <= one.latency_ms <= found.latency_ms.high)
            memory_covered.append(found.memory_bytes.low <= one.memory_bytes <= found.memory_bytes.high)
            for limit in limits:
                refused = found.latency_ms.low > limit
                fits = one.latency_ms <= limit
                fit, miss = fit + fits, miss + (not fits)
                refused_wrongly += fits and refused
                refused_rightly += refused and not fits
    return {
        "latency_error_median": round(statistics.median(errors), 4),
        "latency_error_p90": round(sorted(errors)[math.ceil(0.9 * len(errors)) - 1], 4),
        "latency_coverage": round(statistics.mean(covered), 4),
        "memory_error_median": round(statistics.median(memory_errors), 4),
        "memory_coverage": round(statistics.mean(memory_covered), 4),
        "false_refusals_of_what_fits": round(refused_wrongly / fit, 5),
        "refused_of_what_misses": round(refused_rightly / miss, 4),
        "cases": len(errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=200)
    asked = parser.parse_args()
    profile = measured_here(local())
    with workbench() as bench:
        known = measured(bench, asked.rounds, "bf16" in profile.dtypes)
    unit = profile.processor(RUNTIME)[1]
    ratios = {}
    for name, one in known.items():
        phases = (one.work.vision, one.work.prefill, one.work.decode)
        ratios[name] = one.latency_ms / math.fsum(roof_ms(phase, one.work, unit, profile) for phase in phases)
        print(f"{name}: {one.latency_ms:.2f} ms, {ratios[name]:.1f} roofs, {one.memory_bytes / 1e6:.0f} MB", flush=True)
    found = judged(profile, list(known.values()), asked.draws)
    assert unit.bandwidth
    head = {"benchmark": "prediction", "bundles": len(known), "anchors": ANCHORS, "rounds": asked.rounds}
    roofs = {"peak_f32": unit.peak["f32"], "bandwidth": unit.bandwidth}
    span = {"roofs_least": round(min(ratios.values()), 2), "roofs_most": round(max(ratios.values()), 2)}
    print(json.dumps(head | roofs | span | found))


if __name__ == "__main__":
    main()
