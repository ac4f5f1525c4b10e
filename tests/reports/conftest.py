"""A synthetic run, for tests only: four models over weights, visual tokens, pruning, tuning and prompts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objectives.accuracy import accuracy
from objectives.records import Baseline
from objectives.run import RunFolder
from objectives.trial import Figure, StageCost, Trial

SETTINGS: dict[str, Any] = {
    "name": "synthetic",
    "space_id": "3f1c9a7e52d0",
    "space": {"knobs": {"model.path": [f"models/inspection-{size}" for size in "nsml"]}},
    "device": "synthetic device",
    "task": {"name": "synthetic inspection", "path": "task.yaml", "digests": {}},
    "search": {
        "objectives": ["accuracy", "latency_p50_ms"],
        "budget": "64 trials",
        "limits": {"memory_peak_mb": {"max": 220}},
    },
    "versions": {"vlmfront": "0.1.0", "openvino": "2026.4.1"},
}
KINDS = ("bolts", "defect", "gauge", "guard", "light", "orientation")
MODELS = {"n": (0.66, 1.9, 1.4), "s": (0.86, 4.2, 3.0), "m": (0.94, 11.0, 7.5), "l": (0.975, 27.0, 19.0)}


def scored(rng: np.random.Generator, p: float, n: int) -> Figure:
    hits = int(rng.binomial(n, min(max(p, 0.02), 0.995)))
    return accuracy([1.0] * hits + [0.0] * (n - hits))


def complete_trial(rng: np.random.Generator, number: int, begun: float) -> Trial:
    size = list(MODELS)[int(rng.integers(4))]
    p, ms, mb = MODELS[size]
    weights = str(rng.choice(["fp16", "int8", "int4"]))
    keep, ffn = float(rng.choice([1.0, 0.5, 0.25])), float(rng.choice([0.0, 0.25, 0.5]))
    tuned, hint = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    candidate: dict[str, Any] = {"model.path": f"models/inspection-{size}", "pruning.ffn": ffn}
    candidate |= (
        {"tuning.method": "lora", "tuning.steps": 120, "tuning.rank": 8} if tuned else {"tuning.method": "none"}
    )
    candidate |= {"visual_tokens.keep": keep} | ({"visual_tokens.method": "norm"} if keep < 1 else {})
    candidate |= {"quantization.weights": weights}
    candidate |= {"quantization.group_size": 32, "quantization.method": "awq"} if weights == "int4" else {}
    candidate |= {
        "prompt.template": "you are a factory inspector . {question}",
        "prompt.hint": hint,
        "runtime.name": "openvino",
    }
    p -= {"fp16": 0.0, "int8": 0.002, "int4": 0.02}[weights] + 0.1 * (1 - keep) ** 2 + (0.03 if tuned else 0.12) * ffn
    known, kept_out = p + 0.01, p - (0.02 if tuned else 0.2 if not hint else 0.12)
    ms *= (
        {"fp16": 1.0, "int8": 0.78, "int4": 0.7}[weights]
        * (0.45 + 0.55 * keep)
        * (1 - 0.2 * ffn)
        * (1.12 if hint else 1)
    )
    ms *= math.exp(rng.normal(0, 0.015))
    halves = {"kept_out": scored(rng, kept_out, 256), "known": scored(rng, known, 256)}
    total = sum(round((half.value or 0) * 256) for half in halves.values())
    overall = accuracy([1.0] * total + [0.0] * (512 - total))
    spread = (ms / 1.06, ms * 1.07)
    figures = {
        "accuracy": overall,
        "latency_p50_ms": Figure(value=ms, low=spread[0], high=spread[1], n=31),
        "ttft_p50_ms": Figure(value=0.62 * ms, low=0.6 * ms, high=0.65 * ms, n=31),
        "token_p50_ms": Figure(value=0.13 * ms, low=0.12 * ms, high=0.14 * ms, n=27),
        "memory_peak_mb": Figure(value=180 + 3 * mb + float(rng.normal(0, 2)), n=1),
        "size_mb": Figure(value=1 + mb * {"fp16": 1.0, "int8": 0.55, "int4": 0.36}[weights], n=1),
        "load_s": Figure(value=0.2 + mb / 60, n=1),
    }
    stages = [StageCost(name="model", key=f"k{size}", seconds=0.4, reused=number > 4)]
    stages += [StageCost(name="pruning", key=f"p{size}{ffn}", seconds=0.8, reused=number > 14)] if ffn else []
    stages += [StageCost(name="tuning", key=f"t{size}{ffn}", seconds=9.0 + mb, reused=number > 18)] if tuned else []
    stages += [StageCost(name="runtime", key=f"e{size}{ffn}{tuned}", seconds=7.5 + mb / 4, reused=number > 24)]
    stages += [StageCost(name="quantization", key=f"q{number % 20}", seconds=0.9, reused=number > 30)]
    stages += [StageCost(name="bind", key=f"b{number}", seconds=0.02, reused=False)]
    return Trial(
        number=number,
        candidate_id=f"{number:012x}",
        candidate=candidate,
        state="complete",
        figures=figures,
        slices={
            "kind": {kind: scored(rng, p - 0.04 * index / 5, 85) for index, kind in enumerate(KINDS)},
            "wording": halves,
        },
        stages=tuple(stages),
        seconds={"build": 4.0, "score": 1.6 + ms / 20, "measure": 0.7 + ms / 30, "wait": 0.1},
        labels=("provisional",)
        if number % 9
        else ("provisional", "labelled: the CPU was busy with process 4711 (CV 12 %)"),
        started=begun,
        finished=begun + 5.5,
    )


def synthetic_trials(n: int = 64, seed: int = 4) -> list[Trial]:
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        trial = complete_trial(rng, number, 1_790_000_000 + 6.0 * number)
        known: dict[str, Any] = {
            "number": number,
            "candidate_id": trial.candidate_id,
            "candidate": trial.candidate,
            "started": trial.started,
        }
        if number % 16 == 7:
            reason = "quantization: the group size 64 does not divide the pruned width 96."
            trial = Trial(**known, state="failed", reason=reason, stages=trial.stages[:2])
        elif number % 16 == 12:
            violated = ("memory_peak_mb is 241 MB, the limit is 220 MB",)
            trial = Trial(**known, state="infeasible", violated=violated, figures=trial.figures, stages=trial.stages)
        trials.append(trial)
    return trials


def write_synthetic_run(path: Path, trials: list[Trial], settings: dict[str, Any] | None = None) -> RunFolder:
    run = RunFolder.create(path, settings or SETTINGS)
    for trial in trials:
        run.write_trial(trial)
    common, blank = accuracy([1.0] * 214 + [0.0] * 298), accuracy([1.0] * 192 + [0.0] * 320)
    run.write_baselines(
        [
            Baseline(
                name="commonest_answer",
                explained="For each kind of question, always the answer that is commonest for it.",
                accuracy=common,
                slices={
                    "wording": {
                        "known": accuracy([1.0] * 107 + [0.0] * 149),
                        "kept_out": accuracy([1.0] * 107 + [0.0] * 149),
                    }
                },
            ),
            Baseline(
                name="blank_image", explained="Model l as it comes, every image replaced by grey.", accuracy=blank
            ),
        ]
    )
    return run


@pytest.fixture
def trials() -> list[Trial]:
    return synthetic_trials()


@pytest.fixture
def run(tmp_path: Path, trials: list[Trial]) -> RunFolder:
    return write_synthetic_run(tmp_path / "runs" / "synthetic", trials)
