"""Sealed bundles of the tiny model, and questions about its images."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardware_profiles.bundle import Bundle, Execution, seal, served
from hardware_profiles.messages import Request
from spaces.axes.prompt import AXIS as PROMPT
from spaces.axes.prompt import SPLIT
from spaces.prompting import Prompt
from spaces.sample import Sample

Sealed = Callable[..., Bundle]
END = 22  # a seed whose end token comes after two to eight tokens
QUESTIONS = ("what is this ?", "what colour is this ball ?", "what shape ?", "is this box red ?", "blue ?")


@pytest.fixture(scope="session")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Twelve answered rows in two groups, over images of noise of their own."""
    folder = tmp_path_factory.mktemp("exemplars")
    rng = np.random.default_rng(7)
    rows = []
    for number in range(12):
        path, kind = folder / f"{number}.png", ("colour", "shape")[number % 2]
        side = (16, 24)[number % 3 == 0]
        shade = rng.integers(0, 256, (1, 1, 3))
        pixels = (0.5 * shade + 0.5 * rng.integers(0, 256, (side, side, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        answer = ("red", "ball", "green", "box", "blue", "this")[number % 6]
        question = QUESTIONS[number % len(QUESTIONS)]
        rows.append(
            Sample(id=f"x{number}", image=path, question=question, answers=(answer,), fields={"kind": kind}, group=kind)
        )
    return tuple(rows)


@pytest.fixture(scope="session")
def talkative(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By runtime, the tiny model with another end token: after examples, the original says nothing else."""
    from safetensors.numpy import load_file, save_file

    from spaces.axes.runtime import AXIS

    folder = tmp_path_factory.mktemp("talkative")
    checkpoint, export = folder / "torch", folder / "openvino"
    shutil.copytree(tiny_checkpoint, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    weights[head][2] = np.random.default_rng(END).standard_normal(weights[head].shape[1]) * 0.2
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    export.mkdir()
    AXIS.apply({knob: domain.default for knob, domain in AXIS.domains.items()}, checkpoint, export, {}, seed=0)
    return {"torch": checkpoint, "openvino": export}


@pytest.fixture
def sealed(
    tmp_path: Path,
    tiny_openvino: Path,
    tiny_checkpoint: Path,
    exemplars: tuple[Sample, ...],
    request: pytest.FixtureRequest,
) -> Sealed:
    """Copies the tiny model of a runtime and seals it; keyword arguments go to ``Execution``."""

    def make(
        runtime: str = "openvino", max_new_tokens: int = 8, shots: Mapping[str, Any] | None = None, **execution: Any
    ) -> Bundle:
        folder = tmp_path / f"{runtime}-bundle"
        source = tiny_openvino if runtime == "openvino" else tiny_checkpoint
        prompt = Prompt(template="{question}", hint_field="kind", hints={"colour": "red green blue"})
        if shots:
            source = request.getfixturevalue("talkative")[runtime]
            folder = folder.with_name(f"{runtime}-{'-'.join(map(str, shots.values()))}")
            folder.mkdir()
            choice = {knob: shots.get(knob, domain.default) for knob, domain in PROMPT.domains.items()}
            PROMPT.apply(choice, source, folder, {SPLIT: exemplars}, seed=0)
            prompt = replace(prompt, exemplar_field="kind", **shots)
        else:
            shutil.copytree(source, folder)
        return seal(
            folder,
            runtime=runtime,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            execution=served(**execution) if runtime == "server" else Execution(**execution),
            candidate={"runtime.name": runtime},
            provenance={},
        )

    return make


@pytest.fixture
def requests(tiny_images: list[Path]) -> tuple[Request, ...]:
    """Forty requests with prompts of different lengths, some with a hint."""
    return tuple(
        Request(
            id=str(number),
            image=str(tiny_images[number % len(tiny_images)]),
            question=QUESTIONS[number % len(QUESTIONS)],
            fields={"kind": "colour" if number % 3 else "shape"},
        )
        for number in range(40)
    )
