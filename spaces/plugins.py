"""Where axes come from: the seven built-in ones, installed plug-ins, and ``module:attr`` in a space file."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

from spaces.axes import Axis, model, prompt, pruning, quantization, runtime, tuning, visual_tokens
from spaces.errors import BadInput

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
        BadInput: a reference does not lead to an axis, or two axes have one name.
    """
    installed = [point.load() for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]
    axes = (*BEFORE_BINDING, *installed, *(load(reference) for reference in references), prompt.AXIS)
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
    module, _, attribute = reference.partition(":")
    try:
        axis: Axis = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"axis {reference!r} cannot be loaded ({error}): write it as module:attr.") from None
    missing = [
        name for name in ("name", "version", "tools", "domains", "changes", "reads", "apply") if not hasattr(axis, name)
    ]
    if missing:
        raise BadInput(f"axis {reference!r} lacks {', '.join(missing)}: see the Protocol spaces.axes.Axis.")
    return axis
