import dataclasses
import re
from pathlib import Path

from hardware_profiles import wire
from hardware_profiles.wire_page import CALLS, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "agent-protocol.md"


def test_the_committed_page_is_the_one_that_is_made() -> None:
    told = "run: python -m hardware_profiles.wire_page > docs/agent-protocol.md"
    assert PAGE.read_text(encoding="utf-8") == page(), told


def test_every_message_of_the_wire_is_on_it_with_every_field() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page(), re.MULTILINE | re.DOTALL))
    messages = [one for one in vars(wire).values() if dataclasses.is_dataclass(one) and one.__module__ == wire.__name__]
    assert len(messages) > 8
    for message in messages:
        assert isinstance(message, type)
        rows = re.findall(r"^\| `(\w+)` \|", sections[message.__name__], re.MULTILINE)
        assert rows == [one.name for one in dataclasses.fields(message)]


def test_links_lead_somewhere_and_no_mark_of_sphinx_is_left() -> None:
    headings = {found.lower() for found in re.findall(r"^### (\w+)$", page(), re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", page())) <= headings
    assert ":class:" not in page()
    assert "``" not in page()


def test_bodies_and_answers_of_calls_are_messages_that_the_page_has() -> None:
    named = {word for one in CALLS for word in re.findall(r"\b[A-Z][a-z]\w+\b", f"{one.body} {one.answer}")}
    assert named == {"Hello", "PairRequest", "LeaseRequest", "Lease", "WireJob", "JobState", "Event"}
