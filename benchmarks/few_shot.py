"""What two exemplars do to a model, and what they cost: k=0 against k=2, fixed and nearest, on the search split.

Accuracy of every row, and of its known and kept-out wordings, with the paired difference to k=0 and its standard error.
Latency: p50 over TIMED_ITEMS rows, each configuration in turn within a round, so that a drift of the machine meets them
alike; the median of the rounds. ``fixed, nothing kept`` prefills the whole prompt with every question, as a runtime
without a prefix cache would. Last line: one JSON object.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Answered, Job
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import Question, Session, find
from hardware_profiles.runtimes.openvino_shots import FewShotSession
from search.measuring import timed_items
from search.scoring import requests, score
from spaces.axes import Value
from spaces.sample import Sample
from workbench import FAMILY, Workbench, workbench

SHOTS: dict[str, dict[str, Value]] = {
    "k=0": {},
    "fixed": {"prompt.exemplars": 2, "prompt.exemplar_choice": "fixed"},
    "nearest": {"prompt.exemplars": 2, "prompt.exemplar_choice": "nearest"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FAMILY[-1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with workbench() as bench:
        values: dict[str, Value] = {"model.path": str(options.model.resolve())}
        bundles = {name: bench.bundle(name, values | own)[0] for name, own in SHOTS.items()}
        samples = bench.splits["search"]
        scores = {name: _scores(bench, bundle, samples) for name, bundle in bundles.items()}
        accuracy = {
            part: _compared(scores, [at for at, row in enumerate(samples) if part in ("all", row.fields["wording"])])
            for part in ("all", "known", "kept_out")
        }
        print(json.dumps(accuracy), flush=True)
        latency = _latency(bundles, timed_items(samples), options.rounds)
    print(
        json.dumps(
            {
                "benchmark": "few_shot",
                "model": options.model.name,
                "items": len(samples),
                "rounds": options.rounds,
                "accuracy": accuracy,
                "p50_ms": latency,
            }
        )
    )


def _scores(bench: Workbench, bundle: Path, samples: Sequence[Sample]) -> list[float]:
    result = run_job(Job(kind="answer", bundle=str(bundle), requests=requests(samples)))
    assert isinstance(result, Answered)
    return [answer.score for answer in score(result, samples, bench.task)]


def _compared(scores: Mapping[str, Sequence[float]], rows: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(rows)}
    for name, all_scores in scores.items():
        found[name] = round(statistics.mean(all_scores[row] for row in rows), 4)
        if name != "k=0":
            gains = [all_scores[row] - scores["k=0"][row] for row in rows]
            found[f"{name} - k=0"] = round(statistics.mean(gains), 4)
            found[f"{name} - k=0, standard error"] = round(statistics.stdev(gains) / math.sqrt(len(gains)), 4)
    return found


def _latency(bundles: Mapping[str, Path], samples: Sequence[Sample], rounds: int) -> dict[str, float]:
    ways: dict[str, tuple[Session, list[Question]]] = {}
    for name, folder in bundles.items():
        bundle = open_bundle(folder)
        asker = Asker(folder, bundle.manifest.prompt)
        questions = [asker.question(request) for request in requests(samples)]
        ways[name] = find("openvino").load(bundle), questions
        if name == "fixed":
            uncached = find("openvino").load(bundle)
            assert isinstance(uncached, FewShotSession)
            uncached.caches = False
            ways["fixed, nothing kept"] = uncached, questions
    p50: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (session, questions) in ways.items():
            timings = [session.answer(question) for question in questions]
            if turn:  # the first round warms up
                p50[name].append(statistics.median(timing.e2e_ms for timing in timings))
    return {name: round(statistics.median(each), 3) for name, each in p50.items()}


if __name__ == "__main__":
    main()
