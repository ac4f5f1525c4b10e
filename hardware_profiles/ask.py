"""Asking a bundle one question in this process, as `vlmfront run` does, with the bundle's runtime and nothing else."""

from collections.abc import Mapping
from pathlib import Path

from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Timing
from hardware_profiles.runtimes import Question, find
from hardware_profiles.runtimes.images import read_image
from spaces.prompting import render


def ask(path: Path, image: Path, question: str, fields: Mapping[str, str]) -> Timing:
    """The bundle's answer, timed. ``fields`` are those of a task's row that the bundle's hints go by.

    Raises:
        BadInput: the bundle is not what its manifest says, or the image cannot be read.
    """
    pixels = read_image(image)
    bundle = open_bundle(path)
    prompt = render(bundle.manifest.prompt, question, fields)
    return find(bundle.manifest.runtime).load(bundle).answer(Question(id="", image_HWC=pixels, prompt=prompt))
