"""The digits example, as a user runs it: YAML alone, tuning that works, and a limit that forbids what it forgets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from objectives.run import RunFolder
from reports.front import front_of

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"


def searched(config: str, run: Path) -> tuple[RunFolder, dict[str, Any]]:
    command = [sys.executable, "-m", "search.cli", "search", str(DIGITS / config), "--run", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    return RunFolder.open(run), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_digits_are_learned_and_what_is_forgotten_can_be_forbidden(tmp_path: Path) -> None:
    for script in (DIGITS / "make_data.py", ROOT / "examples" / "inspection" / "draw.py"):
        subprocess.run([sys.executable, str(script)], check=True)
    run, _ = searched("search.yaml", tmp_path / "free")
    free = run.read_trials()
    assert {trial.state for trial in free} <= {"complete", "pruned"}
    tuned = [t for t in free if t.state == "complete" and t.candidate["tuning.method"] == "lora"]
    best = max(tuned, key=lambda trial: trial.figures["accuracy"].value or 0.0)
    print("best", best.candidate, {name: figure.value for name, figure in best.figures.items()})
    assert (best.figures["accuracy"].value or 0) >= 0.9
    assert (best.figures["forgetting"].value or 0) > 0.1
    assert any((trial.figures["accuracy"].value or 0) >= 0.9 for trial in front_of(run, free, "local").trials)
    run, _ = searched("search_keep.yaml", tmp_path / "kept")
    kept = {trial.candidate_id: trial for trial in run.read_trials()}
    forbidden = [trial for trial in kept.values() if trial.state == "infeasible"]
    assert all(any("forgetting" in sentence for sentence in trial.violated) for trial in forbidden)
    assert any((trial.figures["accuracy"].value or 0) >= 0.9 for trial in forbidden)
    members = front_of(run, run.read_trials(), "local").trials
    assert members
    assert all((trial.figures["forgetting"].value or 0.0) <= 0.1 for trial in members)
