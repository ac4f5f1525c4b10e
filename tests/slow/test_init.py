"""From a model and rows to a finished search, by the command alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from objectives.run import RunFolder
from tests.project import write_rows


@pytest.mark.slow
def test_init_to_a_finished_search(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_rows(tmp_path, "own", 40, seed=1)

    def vlmfront(*arguments: object) -> None:
        command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    folder, run = tmp_path / "parts", tmp_path / "run"
    vlmfront("init", folder, "--model", tiny_checkpoint, "--rows", tmp_path / "own.jsonl")
    search = yaml.safe_load((folder / "search.yaml").read_text()) | {"store": str(tmp_path / "store")}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    vlmfront("search", folder / "search.yaml", "--run", run, "--budget", "2trials")
    trials = RunFolder.open(run).read_trials()
    assert len(trials) == 2
    assert trials[0].state == "complete"
