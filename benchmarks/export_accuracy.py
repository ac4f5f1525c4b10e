"""How near an exported fp16 bundle comes to torch: accuracy of both on every holdout item, for each size of the family.

Both run as bundles through the runner, at f32 arithmetic and one thread, in batches. Last line: one JSON object.
"""

import json
from pathlib import Path

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Answered, Job
from search.scoring import requests, score
from workbench import FAMILY, Workbench, workbench


def answers(bench: Workbench, model: Path, runtime: str) -> tuple[list[str], list[float]]:
    bundle, _ = bench.bundle(f"{model.name}-{runtime}", {"model.path": str(model), "runtime.name": runtime})
    samples = bench.splits["holdout"]
    result = run_job(Job(kind="answer", bundle=str(bundle), requests=requests(samples)))
    assert isinstance(result, Answered)
    scored = score(result, samples, bench.task)
    return [answer.answer for answer in scored], [answer.score for answer in scored]


def main() -> None:
    rows = []
    with workbench() as bench:
        for model in FAMILY:
            torch_texts, torch_scores = answers(bench, model, "torch")
            texts, scores = answers(bench, model, "openvino")
            n = len(scores)
            row = {
                "model": model.name,
                "items": n,
                "torch": sum(torch_scores) / n,
                "openvino_fp16": sum(scores) / n,
                "points_apart": round(100 * (sum(scores) - sum(torch_scores)) / n, 2),
                "answers_equal": sum(a == b for a, b in zip(texts, torch_texts, strict=True)) / n,
            }
            rows.append(row)
            print(row, flush=True)
    print(json.dumps({"benchmark": "export_accuracy", "rows": rows}))


if __name__ == "__main__":
    main()
