"""The agent on the oldest Python that a device may have, with what its own lock installs and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hardware_profiles.bundle import Execution, seal
from hardware_profiles.certificates import identity_in
from hardware_profiles.wire import Hello, PairRequest, dump, parse
from spaces.prompting import Prompt
from tests.door import call, serving

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("hardware_profiles", "objectives", "reports", "search", "spaces")
ABSENT = ("httpx", "optuna", "pydantic", "rich", "safetensors", "torch", "transformers", "typer", "yaml")


def python310() -> str:
    """A Python 3.10: of the path, or beside the one that runs."""
    beside = Path(sys.base_prefix).parent.glob("3.10*/bin/python3.10")
    for candidate in (shutil.which("python3.10"), *beside):
        if candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    pytest.fail("this test needs a Python 3.10; install one as python3.10")


@pytest.mark.slow
def test_the_agent_serves_and_measures_on_python_310(
    tiny_openvino: Path, tiny_images: list[Path], tmp_path: Path
) -> None:
    source, state, bundle = tmp_path / "source", tmp_path / "state", tmp_path / "bundle"
    for name in SOURCES:  # no folder of an earlier build gets into the wheel
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    subprocess.run([python310(), "-m", "venv", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--only-binary=:all:", "-r", ROOT / "requirements-agent.lock"], check=True)
    subprocess.run([*install, next(tmp_path.glob("*.whl"))], check=True)
    subprocess.run([*pip, "check"], check=True)
    for name in ABSENT:
        assert subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode == 1

    agent = (str(tmp_path / "bare" / "bin" / "vlmfront-agent"),)
    host = identity_in(tmp_path / "host", "host")
    with serving(state, command=agent) as (process, ready):
        invited = subprocess.run([*agent, "pair", "--state", state, "--json"], capture_output=True, check=True)
        secret = json.loads(invited.stdout)["token"].partition("::")[2]
        asked = dump(PairRequest(secret=secret, certificate=host.pem, name="host"))
        assert call(ready, state, None, "POST", "/v1/pair", asked)[0] == 204
        status, body = call(ready, state, host, "GET", "/v1/hello")
        assert status == 200
        hello = parse(Hello, body)
        assert hello.facts.platform["system"].startswith("Linux")
        assert hello.runtimes.keys() == {"openvino"}
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert process.stderr
        assert process.stderr.read() == ""

    shutil.copytree(tiny_openvino, bundle)
    seal(
        bundle,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=4,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    question = ("--image", str(tiny_images[0]), "--question", "is this box red ?", "--answers", "11", "--json")
    results = []
    for command in (agent, (sys.executable, "-m", "hardware_profiles.agent.cli")):
        measured = subprocess.run([*command, "measure", bundle, *question], capture_output=True, text=True, check=False)
        assert measured.returncode == 0, measured.stderr
        results.append(json.loads(measured.stdout)["processes"][0])
    for process_ in results:
        assert len(process_["timings"]) == 11
        assert process_["memory_peak_bytes"] > process_["memory_baseline_bytes"] > 0
    answers = [{timing["text"] for timing in process_["timings"]} for process_ in results]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 1
