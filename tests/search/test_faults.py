"""A search killed, and out of disk, at points spread over all its changes. Every point: tests/slow/test_faults.py."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults import points as helpers
from tests.faults.inject import Plan
from tests.faults.points import AXES, TRIALS, check_whole, points

POINTS = 5
FAULTS = Path(helpers.__file__).parent
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def test_a_search_survives_faults(project: Callable[..., Path]) -> None:
    with points(project(AXES, budget=f"{TRIALS}trials", workers=1)) as run:
        changes = run.changes(run.fresh("whole"))
        assert len(changes) > 200
        later = [place for place, change in enumerate(changes, 1) if " store/" in change or " run/" in change][40:]
        finished = 0
        for place in later[7 :: len(later) // POINTS]:
            finished += run.hit(run.fresh(f"kill{place}"), "kill", place)[1]
        refusable = [place for place in later if not changes[place - 1].startswith(("remove", "truncate"))]
        for number, place in enumerate(refusable[5 :: len(refusable) // POINTS]):
            error = ERRORS[number % len(ERRORS)]
            finished += run.hit(run.fresh(f"full{place}"), "full", place, error)[1]
        assert finished > POINTS


def test_the_process_that_builds_takes_part(project: Callable[..., Path]) -> None:
    """A real search, with a spawned worker, dies at a change that the worker makes."""
    with points(project(AXES, budget=f"{TRIALS}trials", workers=1)) as run:
        changes = run.changes(run.fresh("whole"))
        place = next(number for number, change in enumerate(changes, 1) if change.startswith("rename store.py:_take"))
        folder = run.fresh("spawned")
        plan = Plan(root=str(folder), log=str(folder) + ".log", mode="kill", at=place)
        done = subprocess.run(
            [sys.executable, "-m", "search.cli", "search", str(folder / "search.yaml"), "--run", str(folder / "run")],
            env=os.environ | plan.environment() | {"PYTHONPATH": str(FAULTS)},
            cwd=FAULTS.parents[1],
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        last = Path(plan.log).read_text().splitlines()[-1]
        assert "store.py:put" in last or "store.py:_take" in last
        assert run.run(folder) == (0, "")
        check_whole(folder)
