"""What every report section has to keep to; plug-ins are found by their entry points."""

from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from objectives.run import RunFolder
from objectives.trial import StageCost, Trial
from reports.html import report_html, write_report
from reports.sections import Section, available, load, rendered
from spaces.errors import BadInput

VOID = {"br", "hr", "img", "input", "meta", "col"}


class Balance(HTMLParser):
    """Finds tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"name": "try", "search": {"objectives": ["accuracy"]}})


@pytest.fixture
def section(plugin: ModuleType) -> Section:
    (only,) = available()
    return only


def sound(html: str) -> bool:
    balance = Balance()
    balance.feed(html)
    return not balance.open and not balance.wrong


def test_it_renders_whole_elements_with_and_without_trials(section: Section, run: RunFolder) -> None:
    assert section.title
    assert sound(section.render(run))
    cost = StageCost(name="<script>alert(1)</script>", key="k", seconds=2.0, reused=False)
    run.write_trial(Trial(number=0, candidate_id="x", candidate={}, state="failed", reason="<b>", stages=(cost,)))
    text = section.render(run)
    assert sound(text)
    assert "<script>" not in text
    assert "2.0" in text
    assert section.title in report_html(run, [section])


def test_a_section_that_fails_leaves_the_report_whole(run: RunFolder) -> None:
    class Broken:
        title = "Broken"

        def render(self, run: RunFolder) -> str:
            raise KeyError("nothing")

    assert "KeyError" in rendered(Broken(), run)
    assert "KeyError" in report_html(run, [Broken()])


def test_a_reference_adds_a_section_and_a_wrong_one_is_refused(plugin: ModuleType, run: RunFolder) -> None:
    path = write_report(run, ["vlmfront_example_plugin:STAGE_COSTS"])
    assert path.read_text().count("Seconds spent on stages") == 1
    for wrong in ("nowhere:X", "vlmfront_example_plugin:RESAMPLE", "vlmfront_example_plugin"):
        with pytest.raises(BadInput, match="report section"):
            load(wrong)
