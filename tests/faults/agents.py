"""``vlmfront-agent`` with something of it replaced: ``agents.py SETTINGS ARGUMENTS...``, or orders on stdin.

SETTINGS is JSON. ``runner``: code of a runner in place of the product's; it counts its runs in a file. ``protocols``
and ``versions``: what the agent says it speaks, and distribution -> version that it says is installed. All else is the
real agent: its command line, its door, its service, its folder.

Without arguments each line of stdin starts an agent in a fork of this process, which has imported everything, under a
plan of :mod:`tests.faults.inject` if it has one; the line that comes back is its process id.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hardware_profiles.agent import cli, confine, facts, hello, serve, service
from tests.faults.inject import Plan, install

SPEAKS = """
import hashlib, json, os, sys, time
def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)
job = json.loads(sys.stdin.readline())
with open(RUNS, "a") as stream:
    stream.write("run\\n")
say("phase", phase="load"); say("loaded", load_s=1.0); say("phase", phase="work")
"""
ANSWERS = """
for one in job["requests"]:
    text = hashlib.sha256((one["id"] + one["question"]).encode()).hexdigest()[:8]
    say("answers", answers=[{"id": one["id"], "text": text, "tokens": 1}])
say("done", work_s=0.5, memory_peak_bytes=1)
"""


def runner(runs: Path, code: str = ANSWERS) -> str:
    """The code of a runner that does ``code``, whose first line of work is a line in the file ``runs``."""
    return f"RUNS = {str(runs)!r}\n{SPEAKS}{code}"


def replace(settings: dict[str, Any]) -> None:
    """Replace what the settings name. An agent's process has nobody else in it, so nothing is ever put back."""
    vars(facts)["accelerators"] = dict  # found out by loading runtimes, for seconds
    if "runner" in settings:
        command = (sys.executable, "-I", "-S", "-c", settings["runner"])
        vars(serve)["Service"] = partial(service.Service, command=command)
    if "protocols" in settings:
        vars(hello)["PROTOCOLS"] = tuple(settings["protocols"])
    versions, installed = settings.get("versions", {}), hello._version
    vars(hello)["_version"] = lambda name: versions.get(name, installed(name))


def start(order: dict[str, Any]) -> None:
    """Become the agent, or one verb of its command line, that an order describes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, name, flags in ((1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        os.dup2(os.open(order[name], flags, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    if order["plan"]:
        install(Plan(**order["plan"]))
    replace(order["settings"])
    code: object = 0
    try:
        cli.main(order["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 99
    sys.stdout.flush()
    Path(order["code"]).write_text(str(code))
    os._exit(0)


def main() -> None:
    if len(sys.argv) > 1:
        replace(json.loads(sys.argv[1]))
        cli.main(sys.argv[2:])
        return
    confine.describe()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            start(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
