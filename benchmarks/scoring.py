"""Items per second of accuracy scoring: a bundle's batched path against transformers generate, both on one thread.

Each model is exported through the stage tree in each inference precision, and asked the first ITEMS rows of the
example's search split. All ways take turns in one process, ROUNDS times after one untimed round; a way's rate is its
median over rounds. ``ratio_one`` is against generate one by one, ``ratio_batch`` against its best batch size. ``cpu``
holds the same ratios in processor time, which a busy machine distorts less. ``f32 without drafts`` leaves out the bf16
drafts that an f32 bundle is scored with where the CPU has bf16. ``answers_equal`` is the share of items
with the same text as torch one by one; for weights that were never trained it says little. A bundle's session is loaded
afresh for each round and asked its first questions untimed, as the runner does. Last line: one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hardware_profiles.agent.runner import CHECKED
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Answer
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.openvino import OpenVINOSession
from hardware_profiles.runtimes.torch import TorchRuntime
from spaces.images import read_image
from workbench import FAMILY, Workbench, workbench

BATCHES = (8, 16, 32, 64)
WITHOUT_DRAFTS = "f32 without drafts"
Way = Callable[[], list[Answer]]  # answers every question
Ready = Callable[[], Way]  # untimed preparation
Rates = dict[str, float]


def ways(bench: Workbench, model: Path, questions: Sequence[Question], precisions: Sequence[str]) -> dict[str, Ready]:
    plain = {"model.path": str(model)}
    torch = TorchRuntime().load(open_bundle(bench.bundle(f"{model.name}-torch", plain | {"runtime.name": "torch"})[0]))

    def reference(size: int) -> Way:
        return lambda: torch.answer_many(questions, batch=size)

    def bundled(folder: Path, drafts: bool) -> Way:
        session = OpenVINOSession(open_bundle(folder))
        session.answer_many(questions[:CHECKED])
        if drafts:
            return lambda: session.answer_many(questions)
        return lambda: session._batched._exact.answer_many(questions)[0]

    found: dict[str, Ready] = {f"torch {size}": partial(reference, size) for size in (1, *BATCHES)}
    for precision in precisions:
        values = plain | {"runtime.inference_precision": precision}
        folder, _ = bench.bundle(f"{model.name}-{precision}", values)
        found[precision] = partial(bundled, folder, drafts=True)
        if precision == "f32":
            found[WITHOUT_DRAFTS] = partial(bundled, folder, drafts=False)
    return found


def race(found: Mapping[str, Ready], items: int, rounds: int) -> tuple[Rates, Rates, Rates]:
    """Items per second by wall and by processor time, and the share of answers equal to torch one by one."""
    texts = {name: [answer.text for answer in ready()()] for name, ready in found.items()}
    wall: dict[str, list[float]] = {name: [] for name in found}
    busy: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, ready in found.items():
            way = ready()
            start, started = time.perf_counter(), time.process_time()
            way()
            wall[name].append(items / (time.perf_counter() - start))
            busy[name].append(items / (time.process_time() - started))
    equal = {name: sum(map(str.__eq__, said, texts["torch 1"])) / items for name, said in texts.items()}
    return _medians(wall), _medians(busy), equal


def _medians(samples: Mapping[str, list[float]]) -> Rates:
    return {name: statistics.median(values) for name, values in samples.items()}


def summary(model: str, precision: str, wall: Rates, busy: Rates, equal: Rates) -> dict[str, object]:
    best = max((f"torch {size}" for size in BATCHES), key=wall.__getitem__)
    best_busy = max((f"torch {size}" for size in BATCHES), key=busy.__getitem__)
    return {
        "model": model,
        "inference_precision": precision,
        "openvino_items_s": round(wall[precision], 1),
        "torch_one_items_s": round(wall["torch 1"], 1),
        "torch_batch_items_s": round(wall[best], 1),
        "best_batch": int(best.split()[1]),
        "ratio_one": round(wall[precision] / wall["torch 1"], 2),
        "ratio_batch": round(wall[precision] / wall[best], 2),
        "cpu": {
            "ratio_one": round(busy[precision] / busy["torch 1"], 2),
            "ratio_batch": round(busy[precision] / busy[best_busy], 2),
        },
        "answers_equal": round(equal[precision], 4),
        "torch_batch_equal": round(equal[best], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[FAMILY[-1]], metavar="MODEL_DIR")
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    options = parser.parse_args()
    results = []
    with workbench() as bench:
        samples = bench.splits["search"][: options.items]
        questions = [Question(id=row.id, image_HWC=read_image(row.image), prompt=row.question) for row in samples]
        for model in options.models:
            found = ways(bench, model.resolve(), questions, options.precisions)
            rates = race(found, len(questions), options.rounds)
            for precision in (name for name in found if not name.startswith("torch")):
                results.append(summary(model.name, precision, *rates))
                print(json.dumps(results[-1]), flush=True)
    print(json.dumps({"benchmark": "scoring", "items": len(questions), "rounds": options.rounds, "models": results}))


if __name__ == "__main__":
    main()
