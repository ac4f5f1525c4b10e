"""Case 22, weights that are not numbers: an output-sanity failure, not a figure."""

import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from hardware_profiles.agent.runner import check_sanity
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import Execution, seal
from hardware_profiles.messages import Job, JobFailed, Request, Timing
from spaces.prompting import Prompt


def poison_openvino(folder: Path) -> None:
    """Make the largest array of the language model NaN: in fp16 that is 0x7e7e."""
    body = (folder / "openvino_language_model.xml").read_text()
    arrays = re.findall(r'element_type="f16"[^>]*offset="(\d+)" size="(\d+)"', body)
    offset, size = max(((int(start), int(length)) for start, length in arrays), key=lambda one: one[1])
    with (folder / "openvino_language_model.bin").open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\x7e" * size)


def poison_torch(folder: Path) -> None:
    """Make one layer of the language model NaN."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    next(array for name, array in weights.items() if "layers.0.mlp.down_proj" in name)[:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def poisoned(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A sealed bundle of the tiny model with weights that are not numbers."""
    folder = tmp_path / "poisoned"
    shutil.copytree(request.getfixturevalue("tiny_openvino" if runtime == "openvino" else "tiny_checkpoint"), folder)
    (poison_openvino if runtime == "openvino" else poison_torch)(folder)
    prompt, pins = Prompt(template="{question}"), Execution()
    seal(folder, runtime=runtime, prompt=prompt, max_new_tokens=8, execution=pins, candidate={}, provenance={})
    return folder


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["measure", "answer"])
def test_case_22_nan_weights_end_in_a_fault(poisoned: Path, tmp_path: Path, kind: Literal["measure", "answer"]) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(image)
    requests = tuple(Request(id=str(n), image=str(image), question="what is this ?") for n in range(3))
    with pytest.raises(JobFailed) as failed:
        run_job(Job(kind=kind, bundle=str(poisoned), requests=requests))
    assert failed.value.fault == "CRASH"
    assert failed.value.reason.startswith("output-sanity failure: ")


def timing(text: str, tokens: int) -> Timing:
    marks = tuple(float(place + 1) for place in range(tokens))
    return Timing(
        id="x", text=text, preprocess_ms=None, vision_ms=None, prefill_ms=None, ttft_ms=1.0, e2e_ms=9.0, token_ms=marks
    )


def test_case_22_what_looks_like_no_numbers() -> None:
    assert check_sanity([timing("", 8), timing(" ", 8)], 8)
    assert check_sanity([timing("!!!!", 8), timing("!!!!", 8)], 8)
    assert not check_sanity([timing("", 1), timing("", 1)], 8)
    assert not check_sanity([timing("a b", 8), timing("c d", 8)], 8)
    assert not check_sanity([timing("", 1)] * 3, 1)
