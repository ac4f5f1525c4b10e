from pathlib import Path

import pytest

from spaces.axes.prompt import AXIS, bound_prompt
from spaces.errors import BadInput
from spaces.prompting import render
from tests.spaces.axes.conftest import contents

HINTS = {"count": "answer with a number ."}


def test_a_hint_follows_the_rendered_template() -> None:
    prompt = bound_prompt({"template": "look : {question}", "hint": True}, "kind", HINTS)
    assert render(prompt, "how many ?", {"kind": "count"}) == "look : how many ? answer with a number ."
    assert render(prompt, "which ?", {"kind": "colour"}) == "look : which ?"


def test_without_the_hint_the_task_s_hints_stay_out() -> None:
    prompt = bound_prompt({"template": "{question}", "hint": False}, "kind", HINTS)
    assert render(prompt, "how many ?", {"kind": "count"}) == "how many ?"


@pytest.mark.parametrize("template", ["", "no place", "{question} and {question}"])
def test_a_template_has_the_question_once(template: str) -> None:
    with pytest.raises(BadInput, match="exactly once"):
        bound_prompt({"template": template, "hint": False})


def test_a_hint_needs_a_task_with_hints() -> None:
    with pytest.raises(BadInput, match="no hints"):
        bound_prompt({"template": "{question}", "hint": True})


def test_it_never_changes_the_artifact() -> None:
    assert not AXIS.changes({"template": "look : {question}", "hint": True})


def test_the_prompt_leaves_the_artifact_as_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "config.json").write_text("{}")
    AXIS.apply({"template": "look . {question}", "hint": True}, source, target, {}, 0)
    assert contents(target) == contents(source)
