"""The engines that load a bundle and answer. This module names them and what they can do; it loads none of them."""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Answer, Timing
from spaces.errors import BadInput
from spaces.references import lacking, load_reference

GROUP = "vlmfront.runtimes"
BUILT_IN = {
    "openvino": "hardware_profiles.runtimes.openvino:OpenVINORuntime",
    "torch": "hardware_profiles.runtimes.torch:TorchRuntime",
    "server": "hardware_profiles.runtimes.server:ServerRuntime",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """An answered question that is shown before another one: a turn of the user and one of the assistant.

    Equal is only what is the same object, so that a tuple of examples is a key to what was computed of it.
    """

    image_HWC: npt.NDArray[np.uint8]  # noqa: N815
    prompt: str
    answer: str


Retrieve: TypeAlias = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], tuple[Example, ...]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt about one image, both ready for the model: ``prompt`` is rendered, ``image_HWC`` is 8-bit RGB.

    Attributes:
        examples: shown before it, in this order. Questions with the very same tuple begin alike.
        retrieve: where the examples hang on the image: gives them for the image as fitted to the model and for its
            visual tokens (V, D); ``examples`` is empty then.
    """

    id: str
    image_HWC: npt.NDArray[np.uint8]  # noqa: N815
    prompt: str
    examples: tuple[Example, ...] = ()
    retrieve: Retrieve | None = None


class Session(Protocol):
    """A loaded bundle. Decoding is greedy and stops at the manifest's ``max_new_tokens``.

    A session whose engine is no part of this process has a ``memory_peak_bytes()`` besides, which counts in its place;
    one that computes in an accelerator's own memory has an ``accelerator_peak_bytes()``, which counts in addition.

    Attributes:
        properties: the settings that the engine reports of itself after loading, and its versions.
    """

    properties: Mapping[str, str]

    def answer(self, question: Question) -> Timing:
        """Answer one question, timed from the decoded image and the rendered prompt to the text.

        Its examples are shown before it. What it takes to find, see and read them is part of the time.
        """
        ...

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer several, as fast as the engine can; in the order of ``questions``."""
        ...


class Runtime(Protocol):
    """One engine.

    Attributes:
        name: the value of ``runtime.name`` and of a manifest's ``runtime``.
        capabilities: knob -> the only values that this engine can deploy; a knob that is absent is free. An engine that
            shows no examples says ``"prompt.exemplars": (0,)``.
    """

    name: str
    capabilities: Mapping[str, tuple[Any, ...]]

    def prepare(self) -> None:
        """Import the engine's packages: the memory a process has then is the baseline above which a bundle costs."""
        ...

    def load(self, bundle: Bundle) -> Session:
        """Load a verified bundle with its execution settings.

        Raises:
            BadInput: if files that the engine needs are missing, or the engine does not run as the manifest pins.
        """
        ...


def names() -> tuple[str, ...]:
    """Every runtime that can be looked up: the built-in ones, then those of installed plug-ins."""
    plugged = (entry.name for entry in entry_points(group=GROUP))
    return tuple(dict.fromkeys((*BUILT_IN, *plugged)))


def find(name: str) -> Runtime:
    """The runtime of this name. Importing it loads no heavy package; ``load`` does.

    Raises:
        BadInput: if there is none of this name, or it is a plug-in that is broken.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        runtime: Runtime = getattr(importlib.import_module(module), attribute)()
        return runtime
    for entry in entry_points(group=GROUP, name=name):
        plugged: Runtime = load_reference("runtime", entry, _flaw)()
        return plugged
    raise BadInput(f"runtime.name is {name!r}, which is not installed; use one of {', '.join(names())}.")


def _flaw(make: Any) -> str:
    runtime = make()
    wrong = lacking(runtime, ("name", "capabilities", "prepare", "load"), "hardware_profiles.runtimes.Runtime")
    if wrong:
        return wrong
    known = runtime.capabilities
    sound = isinstance(known, Mapping) and all(isinstance(values, tuple) for values in known.values())
    return "" if sound else "capabilities: a mapping of knobs to tuples of values is expected"


def capabilities(named: Collection[Any] = ()) -> dict[str, Mapping[str, tuple[Any, ...]]]:
    """For every runtime, by name, the values it can deploy: what ``space.check`` is handed.

    Plug-ins that are not ``named`` are not loaded, and nothing is said of what they can deploy.

    Raises:
        BadInput: a plug-in that is named is broken.
    """
    return {name: find(name).capabilities if name in BUILT_IN or name in named else {} for name in names()}
