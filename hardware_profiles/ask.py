"""Asking a bundle one question in this process, as `vlmfront run` does, with the bundle's runtime and nothing else."""

import os
from collections.abc import Mapping
from pathlib import Path

from hardware_profiles.agent.confine import OFFLINE
from hardware_profiles.agent.runner import explain
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import JobFailed, Request, Timing
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import find
from spaces.errors import BadInput
from spaces.images import read_image
from spaces.prompting import Prompt

_REASON = 600  # characters of an engine's message, at most


def ask(path: Path, image: Path, question: str, fields: Mapping[str, str]) -> Timing:
    """The bundle's answer, timed. ``fields`` are those of a task's row that the bundle's hints go by.

    Raises:
        BadInput: the bundle is not what its manifest says, the image cannot be read, or the field that picks the hint
            or the exemplars is not given or has a value without any.
        JobFailed: the runtime cannot load the bundle, or fails to answer.
        ModuleNotFoundError: the runtime's packages are not installed.
    """
    os.environ.update(OFFLINE)
    if not question.strip():
        raise BadInput("--question: the question is empty; write what you want to know.")
    read_image(image)  # a wrong path is told before a large bundle is verified
    bundle = open_bundle(path)
    check_hint(path, bundle.manifest.prompt, fields)
    asker = Asker(bundle.folder, bundle.manifest.prompt)
    asked = asker.question(Request(id="", image=str(image), question=question, fields=fields))
    runtime = find(bundle.manifest.runtime)
    try:
        return runtime.load(bundle).answer(asked)
    except (BadInput, ModuleNotFoundError):
        raise
    except Exception as error:
        fault, reason = explain(error)
        raise JobFailed(fault, reason[:_REASON]) from error


def field_of(text: str) -> tuple[str, str]:
    """The name and value in ``NAME=VALUE``.

    Raises:
        BadInput: the text is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise BadInput(f"--field {text}: write NAME=VALUE.")
    return name, value


def check_hint(path: Path, prompt: Prompt, fields: Mapping[str, str]) -> None:
    """Refuse to ask without the hint that the bundle was searched with.

    Raises:
        BadInput: naming the field and its values.
    """
    name, values = prompt.hint_field, list(prompt.hints)
    if not name or not values or fields.get(name) in prompt.hints:
        return
    wrong = f"has no hint for {name}={fields[name]}" if name in fields else f"picks its hint by the field {name!r}"
    raise BadInput(f"{path} {wrong}; add --field {name}={values[0]} (one of {', '.join(values)}).")
