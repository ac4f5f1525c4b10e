"""Runs the command line again and again under faults, each time in a fork of a process that has imported everything.

One JSON line on stdin is one run; its exit code comes back as a line. Inference is not what is tested: jobs are
answered in the process, from digests, after the bundle was opened and verified; and workers are forked.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from hardware_profiles.agent import measure, supervisor  # noqa: E402
from hardware_profiles.bundle import open_bundle  # noqa: E402
from hardware_profiles.messages import Answer, Answered, Job, Process, Timing  # noqa: E402
from tests.faults.inject import Plan, install  # noqa: E402

WORDS = ("red", "green", "blue")


def answered(job: Job, **_: Any) -> Answered | Process:
    """The result of a job, as a digest of candidate and question has it."""
    manifest = open_bundle(Path(job.bundle)).manifest
    seed = json.dumps(dict(manifest.candidate), sort_keys=True)

    def drawn(text: str) -> int:
        return int(hashlib.sha256((seed + text).encode()).hexdigest()[:8], 16)

    if job.kind == "answer":
        answers = tuple(Answer(id=one.id, text=WORDS[drawn(one.id) % 3], tokens=1) for one in job.requests)
        return Answered(answers=answers, load_s=0.1, work_s=0.1, memory_peak_bytes=10**8, properties={})
    ms = 1.0 + drawn("latency") % 1000 / 1000
    timings = tuple(
        Timing(
            id=one.id,
            text="red",
            preprocess_ms=None,
            vision_ms=None,
            prefill_ms=None,
            ttft_ms=ms,
            e2e_ms=ms + place % 7 / 1000,
            token_ms=(ms,),
        )
        for place, one in zip(range(job.min_answers), itertools.cycle(job.requests), strict=False)
    )
    return Process(
        load_s=0.1,
        first_ms=2.0,
        warmup_answers=1,
        timings=timings,
        memory_peak_bytes=10**8,
        memory_baseline_bytes=10**7,
        energy_j=None,
        idle_w=None,
        properties={},
    )


for module in (supervisor, measure):
    vars(module)["run_job"] = answered

import plotly.offline  # noqa: E402

import reports.html  # noqa: E402, F401
import search.session  # noqa: E402
import search.show  # noqa: E402, F401
from search import cli  # noqa: E402

plotly.offline.get_plotlyjs = lambda: "//" + "x" * 200_000  # as the report takes it, and quickly written
_real_context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: _real_context("fork" if method == "spawn" else method)  # type: ignore[assignment]


def child(order: dict[str, Any]) -> None:
    os.setsid()
    for number, path in ((1, order["stdout"]), (2, order["stderr"])):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
    os.environ["TMPDIR"] = order["tmp"]
    sys.argv = ["vlmfront", *order["arguments"]]
    if order["plan"]:
        install(Plan(**order["plan"]))
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 99
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            child(order)
        end, done, status = time.monotonic() + order["limit_s"], 0, 0
        while not done and time.monotonic() < end:
            time.sleep(0.005)
            done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status) if done else None}), flush=True)


if __name__ == "__main__":
    main()
