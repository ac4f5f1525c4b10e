"""Case 22, weights that are not numbers: an output-sanity failure, not a figure."""

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


@pytest.fixture(scope="session")
def poisoned(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By runtime, a sealed bundle of the tiny model with one layer of NaN."""
    from safetensors.numpy import load_file, save_file

    from spaces.axes.runtime import AXIS

    folder = tmp_path_factory.mktemp("poisoned")
    checkpoint, export = folder / "torch", folder / "openvino"
    shutil.copytree(tiny_checkpoint, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    next(array for name, array in weights.items() if "layers.0.mlp.down_proj" in name)[:] = np.nan
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    export.mkdir()
    AXIS.apply({knob: domain.default for knob, domain in AXIS.domains.items()}, checkpoint, export, {}, seed=0)
    for runtime, where in (("torch", checkpoint), ("openvino", export)):
        prompt = Prompt(template="{question}")
        seal(
            where, runtime=runtime, prompt=prompt, max_new_tokens=8, execution=Execution(), candidate={}, provenance={}
        )
    return {"torch": checkpoint, "openvino": export}


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
@pytest.mark.parametrize("kind", ["measure", "answer"])
def test_case_22_nan_weights_end_in_a_fault(
    poisoned: dict[str, Path], tmp_path: Path, runtime: str, kind: Literal["measure", "answer"]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(image)
    requests = tuple(Request(id=str(n), image=str(image), question="what is this ?") for n in range(3))
    with pytest.raises(JobFailed) as failed:
        run_job(Job(kind=kind, bundle=str(poisoned[runtime]), requests=requests))
    assert failed.value.fault == "CRASH"
    assert failed.value.reason.startswith("output-sanity failure: ")


def timing(text: str, tokens: int) -> Timing:
    marks = tuple(float(place + 1) for place in range(tokens))
    return Timing(
        id="x", text=text, preprocess_ms=None, vision_ms=None, prefill_ms=None, ttft_ms=1.0, e2e_ms=9.0, token_ms=marks
    )


def test_case_22_what_looks_like_no_numbers() -> None:
    with pytest.raises(FloatingPointError, match="8 tokens of nothing"):
        check_sanity([timing("", 8), timing(" ", 8)], 8)
    assert check_sanity([timing("!!!!", 8), timing("!!!!", 8)], 8)
    assert not check_sanity([timing("", 1), timing("", 1)], 8)
    assert not check_sanity([timing("a b", 8), timing("c d", 8)], 8)
    assert not check_sanity([timing("", 1)] * 3, 1)
