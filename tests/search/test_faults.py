"""A search killed, and out of disk, at points spread over all its changes. All of them: tests/slow/test_faults.py."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.points import AXES, TRIALS, points

MODES = [("kill", 0), ("full", errno.ENOSPC)]


@pytest.mark.parametrize(("mode", "error"), MODES)
def test_a_search_survives_a_fault(mode: str, error: int, project: Callable[..., Path]) -> None:
    with points(project(AXES, budget=f"{TRIALS}trials", workers=1)) as run:
        changes = run.changes(run.fresh("whole"))
        print("\n".join(changes))
        assert len(changes) > 200
