"""Where axes come from: the seven built-in ones, installed plug-ins, and ``module:attr`` in a space file."""

from collections.abc import Iterable, Mapping
from typing import Any

from spaces.axes import Axis, Choice, Domain, model, prompt, pruning, quantization, runtime, tuning, visual_tokens
from spaces.errors import BadInput, StageFailed
from spaces.references import lacking, load_installed, load_reference

GROUP = "vlmfront.axes"
BEFORE_BINDING: tuple[Axis, ...] = (
    model.AXIS,
    pruning.AXIS,
    tuning.AXIS,
    runtime.AXIS,
    visual_tokens.AXIS,
    quantization.AXIS,
)


def builtin() -> tuple[Axis, ...]:
    """The built-in axes in stage order."""
    return (*BEFORE_BINDING, prompt.AXIS)


def available(references: Iterable[str] = ()) -> tuple[Axis, ...]:
    """The built-in axes in stage order, with plug-ins applied after quantization and before the prompt is bound.

    Plug-ins are the entry points of the group ``vlmfront.axes``, by name, then ``references`` (``module:attr``).

    Raises:
        BadInput: an entry point or a reference does not lead to an axis, or two axes have one name.
    """
    axes = (*BEFORE_BINDING, *load_installed("axis", GROUP, _flaw), *map(load, references), prompt.AXIS)
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two axes are called {name!r}: rename or remove one of them.")
    return axes


def load(reference: str) -> Axis:
    """The axis that ``module:attr`` names.

    Raises:
        BadInput: there is no such module or attribute, or it is no axis.
    """
    axis: Axis = load_reference("axis", reference, _flaw)
    return axis


def stage_reads(axis: Axis, choice: Choice) -> tuple[str, ...] | None:
    """The splits that an axis's stage reads for a choice; null where the choice changes nothing: there is no stage.

    Raises:
        StageFailed: the axis, a plug-in's, breaks when it is asked.
    """
    try:
        if not axis.changes(choice):
            return None
        reads = axis.reads(choice)
        if not isinstance(reads, tuple) or not all(isinstance(split, str) for split in reads):
            raise TypeError(f"reads: a tuple of splits is expected, not {reads!r}")
    except Exception as error:
        raise StageFailed(f"the axis {axis.name!r} broke ({type(error).__name__}: {error})") from error
    return reads


def _flaw(axis: Any) -> str:
    protocol = "spaces.axes.Axis"
    wrong = lacking(axis, ("name", "version", "tools", "domains", "changes", "reads", "apply"), protocol)
    if wrong:
        return wrong
    sound = isinstance(axis.name, str) and type(axis.version) is int and isinstance(axis.tools, tuple)
    if not sound or not isinstance(axis.domains, Mapping):
        return f"its name, version, tools or domains are of another type (see the Protocol {protocol})"
    strange = [name for name, domain in axis.domains.items() if not isinstance(domain, Domain)]
    return f"domains: {strange[0]} is no spaces.axes.Domain" if strange else ""
