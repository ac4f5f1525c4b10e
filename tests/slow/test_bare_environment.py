"""`vlmfront run` answers in an environment without torch, transformers and optuna."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "openvino", "openvino-genai", "openvino-tokenizers", "numpy", "pillow", "typer", "click", "rich", "pygments",
    "markdown-it-py", "mdurl", "shellingham", "annotated-doc", "typing_extensions", "openvino-telemetry", "setuptools",
    "packaging",
)  # fmt: skip
ABSENT = ("torch", "transformers", "optuna", "nncf", "plotly", "pydantic", "yaml")


@pytest.mark.slow
def test_a_bundle_answers_where_only_its_runtime_is_installed(
    tiny_openvino: Path, tiny_images: list[Path], tmp_path: Path
) -> None:
    from hardware_profiles.bundle import Execution, seal
    from spaces.prompting import Prompt

    for path in tiny_openvino.iterdir():
        (tmp_path / "bundle" / path.name).parent.mkdir(exist_ok=True)
        (tmp_path / "bundle" / path.name).write_bytes(path.read_bytes())
    seal(
        tmp_path / "bundle",
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=4,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    names = {name.lower().replace("_", "-"): name for name in lock}
    pins = [f"{names[name.replace('_', '-')]}=={lock[names[name.replace('_', '-')]]}" for name in NEEDED]
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *pins], check=True)
    subprocess.run([*pip, "--no-build-isolation", str(ROOT)], check=True)
    for name in ABSENT:
        assert subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode == 1
    asked = (
        "run",
        str(tmp_path / "bundle"),
        "--image",
        str(tiny_images[0]),
        "--question",
        "what colour is this ?",
        "--json",
    )
    bare = subprocess.run(
        [str(tmp_path / "bare" / "bin" / "vlmfront"), *asked], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    full = subprocess.run([sys.executable, "-m", "search.cli", *asked], capture_output=True, text=True, check=True)
    assert json.loads(bare.stdout)["answer"] == json.loads(full.stdout)["answer"]
