"""A whole search whose candidates run in a server of the device's own configuration, beside torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from objectives.run import RunFolder


@pytest.mark.slow
def test_a_search_deploys_to_a_server(project: Callable[..., Path], tiny_server: str) -> None:
    axes = {
        "model": {"path": ["models/a"]},
        "runtime": {"name": ["torch", "server"], "server": tiny_server, "inference_precision": "f32"},
    }
    config = project(axes=axes, budget="2trials", workers=1)
    run = config.parent / "run"
    verbs = [sys.executable, "-m", "search.cli"]
    subprocess.run([*verbs, "search", str(config), "--run", str(run)], check=True, timeout=300)
    trials = {str(trial.candidate["runtime.name"]): trial for trial in RunFolder.open(run).read_trials()}
    assert set(trials) == {"torch", "server"}
    assert {trial.state for trial in trials.values()} == {"complete"}
    served = trials["server"]
    assert "runtime.inference_precision" not in served.candidate
    assert served.figures["accuracy"] == trials["torch"].figures["accuracy"]
    assert served.figures["size_mb"].value == pytest.approx(trials["torch"].figures["size_mb"].value, rel=0.01)
    assert (served.figures["memory_peak_mb"].value or 0) > 200
    out = config.parent / "deploy"
    subprocess.run([*verbs, "export", str(run), str(served.number), str(out)], check=True, timeout=60)
    execution = json.loads((out / "manifest.json").read_text())["execution"]
    assert execution["server"] == tiny_server
    assert execution["inference_precision"] == "own"
    picture = str(next((config.parent / "images").iterdir()))
    asked = ["--image", picture, "--question", "what colour is this ?", "--field", "kind=colour", "--json"]
    done = subprocess.run([*verbs, "run", str(out), *asked], check=True, timeout=60, capture_output=True, text=True)
    assert json.loads(done.stdout)["first_answer_ms"] > 0
