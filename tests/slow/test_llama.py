"""The runtime ``server`` against llama.cpp itself, with a random LLaVA as GGUF.

Wants an environment of its own, ``pip install xllamacpp gguf``, named by ``VLMFRONT_TEST_LLAMA`` (its python). Without
that variable this test is not there.
"""

import os
import subprocess
from pathlib import Path

import pytest

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import seal, served
from hardware_profiles.messages import Job, Process, Request
from spaces.prompting import Prompt
from tests.servers import Configured

HERE = Path(__file__).parent
PYTHON = os.environ.get("VLMFRONT_TEST_LLAMA")
PYTHONS = [PYTHON] if PYTHON else []


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS, ids=["xllamacpp"] * len(PYTHONS))
def test_llama_cpp_is_measured_by_its_stream(
    python: str, configured: Configured, tiny_images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    subprocess.run([python, str(HERE / "tiny_gguf.py"), str(folder)], check=True)
    command = [python, str(HERE / "llama_server.py"), "{model}", "{mmproj}", "{port}"]
    made = seal(
        folder,
        runtime="server",
        prompt=Prompt(),
        max_new_tokens=6,
        execution=served("llama"),
        candidate={},
        provenance={},
    )
    requests = tuple(
        Request(id=str(number), image=str(path), question="what is this ?") for number, path in enumerate(tiny_images)
    )
    found = {}
    for cached in (False, True):
        configured(llama={"command": command, "request": {"cache_prompt": cached}})
        measured = run_job(Job(kind="measure", bundle=str(made.folder), requests=requests[:1]))
        assert isinstance(measured, Process)
        found[cached] = measured
        print(measured.properties, [timing.e2e_ms for timing in measured.timings], measured.timings[0].text)
    without = found[False]
    assert len({timing.text for timing in without.timings}) == 1
    for timing in without.timings:
        assert 1 <= len(timing.token_ms) <= 6
        assert timing.token_ms[0] == timing.ttft_ms <= timing.e2e_ms
    assert "counted by usage" in without.properties["tokens"]
    prompt_ms = float(without.properties["server.timings.prompt_ms"].split()[0])
    ttft_ms = sorted(timing.ttft_ms for timing in without.timings)[len(without.timings) // 2]
    assert 0 < prompt_ms < ttft_ms
    cached_tokens = {
        name: float(one.properties["server.usage.cached_tokens"].split()[0]) for name, one in found.items()
    }
    assert cached_tokens[False] == 0 < cached_tokens[True]
    assert without.memory_peak_bytes > 10 << 20
