"""Sections that plug-ins add to the report, behind our own."""

from collections.abc import Iterable
from typing import Any, Protocol

from objectives.run import RunFolder
from reports.markup import Html, card, element
from spaces.references import lacking, load_installed, load_reference

GROUP = "vlmfront.report_sections"


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
        BadInput: an entry point or a reference does not lead to a section.
    """
    return tuple(dict.fromkeys((*load_installed("report section", GROUP, _flaw), *map(load, references))))


def load(reference: str) -> Section:
    """The section that ``module:attr`` names.

    Raises:
        BadInput: there is no such module or attribute, or it is no section.
    """
    section: Section = load_reference("report section", reference, _flaw)
    return section


def _flaw(section: Any) -> str:
    return lacking(section, ("title", "render"), "reports.sections.Section")


def rendered(section: Section, run: RunFolder) -> Html:
    """The section with its heading; where it fails, the reason in its place: it never costs the rest of the report."""
    try:
        content = Html(section.render(run))
    except Exception as error:
        content = element("p", f"This section failed: {type(error).__name__}: {error}")
    return card(section.title, None, content)
