"""Sections that plug-ins add to the report, behind our own."""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from objectives.run import RunFolder
from reports.markup import Html, card, element
from spaces.errors import BadInput

GROUP = "vlmfront.report_sections"


@runtime_checkable
class Section(Protocol):
    """One section of the report.

    Attributes:
        title: its heading.
    """

    title: str

    def render(self, run: RunFolder) -> str:
        """The section's HTML, whole elements only, for a run that may be unfinished or have no trials yet.

        What comes from the run is escaped by the section. The page's policy blocks whatever loads from elsewhere.
        """
        ...


def available(references: Iterable[str] = ()) -> tuple[Section, ...]:
    """The sections of installed plug-ins by name, then ``references`` (``module:attr``).

    Raises:
        BadInput: a reference does not lead to a section.
    """
    installed = [point.load() for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]
    return (*installed, *(load(reference) for reference in references))


def load(reference: str) -> Section:
    """The section that ``module:attr`` names.

    Raises:
        BadInput: there is no such module or attribute, or it is no section.
    """
    module, _, attribute = reference.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"report section {reference!r} cannot be loaded ({error}): write it as module:attr.") from None
    if not isinstance(found, Section):
        raise BadInput(f"report section {reference!r} lacks title or render: see reports.sections.Section.")
    return found


def rendered(section: Section, run: RunFolder) -> Html:
    """The section with its heading; where it fails, the reason in its place: it never costs the rest of the report."""
    try:
        content = Html(section.render(run))
    except Exception as error:
        content = element("p", f"This section failed: {type(error).__name__}: {error}")
    return card(section.title, None, content)
