"""A runner that answers without a model: its answer is its process id, and the digest of the bundle's ``model.bin``.

Started with a folder: each execution adds a line to ``executions`` there. A question that begins with "hold" is
answered once ``go`` exists there; at "hold much" it keeps 100 MB until then, at "greedy" it takes memory without end.
It is not tied to its agent, as one that hangs before it asks for that is not.
"""

import hashlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def say(event: str, **content: object) -> None:
    print(json.dumps({"event": event, **content}), flush=True)


def measure(job: dict[str, Any]) -> None:
    """Timed answers, and a first one that took as many milliseconds as the id of this process."""
    parts: dict[str, object] = dict.fromkeys(("preprocess_ms", "vision_ms", "prefill_ms"))
    for one in itertools.islice(itertools.cycle(job["requests"]), max(job["min_answers"], len(job["requests"]))):
        say("timing", timing={"id": one["id"], "text": "", "ttft_ms": 1.0, "e2e_ms": 2.0, "token_ms": [1.0], **parts})
    facts = {"warmup_answers": 1, "memory_peak_bytes": 300, "began_s": time.monotonic(), "ended_s": time.monotonic()}
    say("done", first_ms=float(os.getpid()), **facts)


def main(folder: Path) -> None:
    job = json.loads(sys.stdin.readline())
    question = job["requests"][0]["question"]
    with (folder / "executions").open("a") as stream:
        stream.write(json.dumps({"pid": os.getpid(), "question": question}) + "\n")
    say("phase", phase="load")
    say("loaded", load_s=0.5, memory_baseline_bytes=100, properties={})
    say("phase", phase="warmup")
    say("phase", phase="work")
    hoard = [b"\1" * (100 << 20)] if question == "hold much" else []
    while question.startswith("hold") and not (folder / "go").exists():
        time.sleep(0.005)
    while question == "greedy":
        hoard.append(b"\1" * (8 << 20))
    if job["kind"] == "measure":
        measure(job)
        return
    text = f"{os.getpid()} {hashlib.sha256((Path(job['bundle']) / 'model.bin').read_bytes()).hexdigest()}"
    say("answers", answers=[{"id": one["id"], "text": text, "tokens": 1} for one in job["requests"]])
    say("done", work_s=0.1, memory_peak_bytes=300, properties={})


main(Path(sys.argv[1]))
