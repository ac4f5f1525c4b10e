"""An agent killed with SIGKILL, and out of disk, at every change of its folder: the host's session goes on."""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.agent_points import forks, hit


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "full"])
def test_every_change_of_an_agent_may_be_the_last(
    mode: Literal["kill", "full"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, kinds, broken = time.monotonic(), Counter[str](), []
    with forks() as forked:
        whole, _ = hit(tmp_path / "whole", forked, monkeypatch, "log")
        places = [
            place for place, one in enumerate(whole, 1) if mode == "kill" or not one.startswith(("remove", "tru"))
        ]
        for place in places:
            folder = tmp_path / str(place)
            try:
                changes, _ = hit(folder, forked, monkeypatch, mode, place)
                kinds[" ".join(changes[-1].split()[:2])] += 1
            except Exception as failure:
                broken.append(f"{place} ({whole[place - 1].split()[:3]}): {' '.join(str(failure).split())[:900]}")
            else:
                shutil.rmtree(folder)
    print(f"\n{mode}: {kinds.total()} of {len(places)} points, {time.monotonic() - begun:.0f} s, {dict(kinds)}")
    assert not broken, "\n".join(broken)
