import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_profiles.bundle import Bundle
from hardware_profiles.profile import load_profile, local
from spaces.errors import BadInput

Sealed = Callable[..., Bundle]


def agent(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "hardware_profiles.agent.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_measure_prints_the_raw_measurement(sealed: Sealed, tiny_images: list[Path]) -> None:
    bare = ("--image", tiny_images[0], "--question", "what is this ?", "--answers", "12")
    folder = sealed().folder
    refused = agent("measure", folder, *bare)
    assert refused.returncode == 2
    assert "--field kind=colour" in refused.stderr
    asked = (*bare, "--field", "kind=colour")
    done = agent("measure", folder, *asked, "--json")
    assert done.returncode == 0, done.stderr
    measurement = json.loads(done.stdout)
    assert len(measurement["processes"][0]["timings"]) == 12
    assert len({timing["text"] for timing in measurement["processes"][0]["timings"]}) == 1
    shown = agent("measure", folder, *asked)
    assert shown.returncode == 0, shown.stderr
    assert "vision_ms" in shown.stdout
    assert "memory: peak" in shown.stdout
    assert "sustained" not in shown.stdout
    begun = time.monotonic()
    long = agent("measure", folder, *asked, "--sustained", "3")
    assert time.monotonic() - begun > 3
    assert "sustained: p50 " in long.stdout
    assert "0 to 3600 seconds are expected, not '-1'" in agent("measure", folder, *asked, "--sustained", "-1").stderr


def test_bad_input_ends_with_one_sentence_and_exit_code_2(tmp_path: Path, tiny_images: list[Path]) -> None:
    question = ("--question", "what ?")
    for done, words in (
        (agent("measure", tmp_path, "--image", tmp_path / "no.png", *question), "no.png cannot be read as an image"),
        (agent("measure", tmp_path, "--image", tiny_images[0], *question), "is no bundle"),
    ):
        assert done.returncode == 2
        assert done.stdout == ""
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_local_profile_is_this_machine() -> None:
    profile = local()
    assert profile.threads == len(os.sched_getaffinity(0))
    assert profile.memory_bytes == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)
    assert profile.dtypes[0] == "f32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("", "source: Field required"),
        ("source: x\nthread: 2\n", "thread: Extra inputs"),
        ("source: x\nthreads: -1\n", "threads: Input should be greater"),
        ("source: [\n", "is not YAML"),
    ],
)
def test_a_wrong_profile_names_its_field(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "device.yaml"
    threads = "" if "threads:" in change else "threads: 4\n"
    path.write_text(f"schema: vlmfront.profile/1\nname: pi\nmemory_bytes: 1\ndtypes: [f32]\n{threads}{change}")
    with pytest.raises(BadInput, match=words) as refused:
        load_profile(path)
    assert str(path) in str(refused.value)
