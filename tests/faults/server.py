"""Runs the command line again and again under faults, each time in a fork of a process that has imported everything.

One JSON line on stdin is one run; its exit code comes back as a line. Inference is not what is tested: the device is a
double in the process, jobs are answered from digests after the bundle was opened and verified, and workers are forked.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from hardware_profiles.agent import supervisor  # noqa: E402
from hardware_profiles.bundle import open_bundle  # noqa: E402
from hardware_profiles.messages import Answered, Job  # noqa: E402
from tests.double import Double, drawn, told, word  # noqa: E402
from tests.faults.inject import Plan, install  # noqa: E402


def answered(job: Job, **_: Any) -> Answered:
    """What this machine answers, to the end."""
    open_bundle(Path(job.bundle))
    return told(Path(job.bundle), job.requests, None, word)


vars(supervisor)["run_job"] = answered

import plotly.offline  # noqa: E402

import reports.html  # noqa: E402, F401
import search.session  # noqa: E402
import search.show  # noqa: E402, F401
from search import cli, fleet  # noqa: E402


def opened(name: str, *_: object) -> Double:
    """The device that measures: an agent in the process, whose timings a digest decides."""
    return Double(name, lambda bundle: 1.0 + drawn(bundle, "latency") % 1000 / 1000, here=True)


vars(fleet)["open_device"] = opened

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
