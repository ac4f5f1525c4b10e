"""Seconds per trial by stage: cold, with everything to build, and with a prefix that the store has already.

One worker and the whole way of a trial, as the search goes it. The prefix is shared in two ways: all of it (only the
prompt differs) and up to quantization. Last line: one JSON object; ``beyond_scoring_s`` is the time less scoring.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from hardware_profiles.store import Store
from objectives.registry import OBJECTIVES
from objectives.run import RunFolder
from search.build import StageTree
from search.evaluate import Evaluator
from search.executors import Builder
from search.fleet import Fleet
from search.gate import Gate
from search.scoring import Scorer
from search.study import Asked
from spaces.axes import Value
from workbench import FAMILY, Workbench

FULL: dict[str, Value] = {
    "pruning.ffn": 0.25,
    "tuning.method": "lora",
    "tuning.steps": 60,
    "tuning.rank": 8,
    "tuning.rate": 0.002,
    "visual_tokens.keep": 0.5,
    "visual_tokens.method": "norm",
    "quantization.weights": "int4",
    "quantization.group_size": 64,
    "quantization.method": "awq_scale_estimation",
    "prompt.template": "{question}",
    "prompt.hint": False,
}
STEPS: dict[str, dict[str, Value]] = {
    "warm-up of the worker": {"pruning.ffn": 0.5, "tuning.steps": 1},
    "cold": {},
    "cached, another prompt": {"prompt.hint": True},
    "cached to visual tokens, another quantization": {"quantization.group_size": 32},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FAMILY[-1])
    parser.add_argument("--items", type=int, default=512)
    chosen = parser.parse_args()
    rows = {}
    with TemporaryDirectory() as folder, Builder(Path(folder) / "store", stop := Event()) as builder:
        bench = Workbench(Path(folder))
        fleet = Fleet(("local",), Gate(), stop)
        fleet.open()
        for number, (name, change) in enumerate(STEPS.items()):
            values = {"model.path": str(chosen.model)} | FULL | change
            space = bench.space(values)
            digests = {"train": "", "calibration": ""}
            run = Path(folder) / "run"
            evaluator = Evaluator(
                run=RunFolder.open(run) if run.exists() else RunFolder.create(run, {}),
                space=space,
                scorer=Scorer(bench.task, bench.splits["search"][: chosen.items], None, seed=0),
                tree=StageTree(space, bench.splits, digests, bench.task.max_new_tokens, seed=0),
                store=Store(Path(folder) / "store"),
                fleet=fleet,
                objectives=("accuracy", "latency_p50_ms"),
                known=OBJECTIVES,
                limits={},
                racing=False,
            )
            begun = time.monotonic()
            trial = evaluator.evaluate(Asked(number, space.candidate(values)), builder)
            total = time.monotonic() - begun
            assert trial.state == "complete", trial.reason
            rows[name] = {
                "total_s": round(total, 2),
                "beyond_scoring_s": round(total - trial.seconds["score"], 2),
                "score_s": round(trial.seconds["score"], 2),
                "measure_s": round(trial.seconds["measure"], 2),
                "build_s": round(trial.seconds["build"], 2),
                "stages": {stage.name: 0.0 if stage.reused else round(stage.seconds, 2) for stage in trial.stages},
            }
            print(name, rows[name], flush=True)
        fleet.close()
    print(json.dumps({"benchmark": "trial_cost", "model": chosen.model.name, "items": chosen.items, "rows": rows}))


if __name__ == "__main__":
    main()
