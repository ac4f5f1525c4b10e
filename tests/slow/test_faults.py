"""A search killed with SIGKILL, and out of disk, at every change of its run and its store: nothing is lost."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.points import AXES, TRIALS, Tally, points

STEP = int(os.environ.get("VLMFRONT_FAULT_STEP", "4"))
"""Every so manieth change is hit, which is over 200 in all; 1 is every one, for an hour or so."""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "error"), [("kill", 0), ("full", errno.ENOSPC)])
def test_every_change_of_a_search_may_be_the_last(
    mode: Literal["kill", "full"], error: int, project: Callable[..., Path]
) -> None:
    begun, tally, broken = time.monotonic(), Tally(), []
    with points(project(AXES, budget=f"{TRIALS}trials", workers=1)) as run:
        changes = run.changes(run.fresh("whole"))
        refusable = [not change.startswith(("remove", "truncate")) for change in changes]
        chosen = [place for place, may in enumerate(refusable, 1) if mode == "kill" or may][::STEP]
        for place in chosen:
            folder = run.fresh(str(place))
            try:
                tally.add(*run.hit(folder, mode, place, error))
            except Exception as failure:
                broken.append(f"{place} ({changes[place - 1].split()[:2]}): {' '.join(str(failure).split())[:600]}")
            else:
                shutil.rmtree(folder)
    print(f"\n{mode}: {time.monotonic() - begun:.0f} s, {tally}")
    assert not broken, "\n".join(broken)
    assert STEP > 1 or len(chosen) >= 200
