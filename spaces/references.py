"""How the code of plug-ins is loaded: from ``module:attr`` in a user's file, and from installed entry points."""

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeAlias

from spaces.errors import BadInput

Flaw: TypeAlias = Callable[[Any], str]
"""What is wrong with an object that was loaded, in words; empty where nothing is."""


def load_reference(kind: str, source: str | EntryPoint, flaw: Flaw) -> Any:
    """The object that ``module:attr`` or an entry point names; ``kind`` says what it should be.

    Raises:
        BadInput: it cannot be loaded, whatever its module raises, or has a flaw.
    """
    if isinstance(source, EntryPoint):
        owner = f" of {source.dist.name}" if source.dist else ""
        where, cure = f"the installed {kind} {source.name!r}{owner}", "reinstall or uninstall it"
    else:
        where, cure = f"{kind} {source!r}", "name another one as module:attr"
        source = EntryPoint(name=source, value=source, group="")
    try:
        found = source.load()
        wrong = flaw(found)
    except Exception as error:
        wrong = f"it cannot be loaded ({type(error).__name__}: {error})"
    if wrong:
        raise BadInput(f"{where}: {wrong}; {cure}.")
    return found


def load_installed(kind: str, group: str, flaw: Flaw) -> list[Any]:
    """What the entry points of a group name, by their names.

    Raises:
        BadInput: as `load_reference`, naming the entry point and its distribution.
    """
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    return [load_reference(kind, point, flaw) for point in points]


def lacking(found: Any, names: Sequence[str], protocol: str) -> str:
    """The flaw of an object without some of a Protocol's members, or of a class where an instance is expected."""
    missing = [name for name in names if not hasattr(found, name)]
    if missing:
        return f"it lacks {', '.join(missing)} (see the Protocol {protocol})"
    return f"it is a class, not an object (see the Protocol {protocol})" if isinstance(found, type) else ""
