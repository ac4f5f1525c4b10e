"""A search killed, and out of disk, at points spread over all its changes. Every point: tests/slow/test_faults.py."""

import errno
from collections.abc import Callable
from pathlib import Path

from tests.faults.points import AXES, TRIALS, points

POINTS = 6
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
