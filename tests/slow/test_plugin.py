"""The example plug-in, installed beside vlmfront in an environment of its own, takes part in a whole search."""

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"


@pytest.mark.slow
def test_an_installed_plug_in_of_every_kind_takes_part_in_a_search(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "env"
    venv.create(home, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    ours = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(packages), str(PLUGIN)], check=True)
    config = project(
        axes={
            "model": {"path": ["models/a"]},
            "resample": {"filter": ["as_is", "bilinear"]},
            "runtime": {"name": ["torch_eager"]},
        },
        objectives=["accuracy", "answer_length"],
        sampler="halton",
        budget="2trials",
    )
    run = tmp_path / "run"
    command = [str(home / "bin" / "python"), "-m", "search.cli"]
    done = subprocess.run(
        [*command, "search", str(config), "--run", str(run), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    trials = [json.loads(path.read_text()) for path in sorted((run / "trials").glob("*.json"))]
    assert {trial["state"] for trial in trials} == {"complete"}, [trial["reason"] for trial in trials]
    assert {trial["candidate"]["resample.filter"] for trial in trials} == {"as_is", "bilinear"}
    assert all(trial["figures"]["answer_length"]["value"] is not None for trial in trials)
    report = (run / "report.html").read_text()
    assert "Seconds spent on stages" in report
    assert "Answer length" in report
