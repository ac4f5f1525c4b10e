"""Sealed bundles of the tiny model, and questions about its images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.bundle import Bundle, Execution, seal
from hardware_profiles.messages import Request
from spaces.prompting import Prompt

Sealed = Callable[..., Bundle]
QUESTIONS = ("what is this ?", "what colour is this ball ?", "what shape ?", "is this box red ?", "blue ?")


@pytest.fixture
def sealed(tmp_path: Path, tiny_openvino: Path, tiny_checkpoint: Path) -> Sealed:
    """Copies the tiny model of a runtime and seals it; keyword arguments go to ``Execution``."""

    def make(runtime: str = "openvino", max_new_tokens: int = 8, **execution: Any) -> Bundle:
        folder = tmp_path / f"{runtime}-bundle"
        shutil.copytree(tiny_openvino if runtime == "openvino" else tiny_checkpoint, folder)
        return seal(
            folder,
            runtime=runtime,
            prompt=Prompt(template="{question}", hint_field="kind", hints={"colour": "red green blue"}),
            max_new_tokens=max_new_tokens,
            execution=Execution(**execution),
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
