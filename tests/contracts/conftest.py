"""The example plug-in as pip installs it, on the path of the session that tests it."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from spaces.sample import Sample

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The installed example plug-in's module; its entry points are found while the fixture lives."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    target = tmp_path_factory.mktemp("installed")
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--target", str(target), str(source)], check=True)
    sys.path.append(str(target))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("vlmfront_example_plugin")
    finally:
        sys.path.remove(str(target))
        sys.modules.pop("vlmfront_example_plugin", None)


@pytest.fixture
def samples(tiny_images: list[Path]) -> dict[str, tuple[Sample, ...]]:
    """A few rows of every split that an axis may read."""
    rows = tuple(
        Sample(
            id=str(number), image=path, question="what colour is this ?", answers=("red",), fields={"kind": "colour"}
        )
        for number, path in enumerate(tiny_images)
    )
    return {"train": rows, "calibration": rows}
