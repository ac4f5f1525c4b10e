from hypothesis import given
from hypothesis import strategies as st

from spaces.prompting import Prompt, render


def test_template_and_hint_go_around_the_question() -> None:
    prompt = Prompt(template="look . {question}", hint_field="kind", hints={"light": "answer red or green"})
    assert render(prompt, "which colour ?", {"kind": "light"}) == "look . which colour ? answer red or green"
    assert render(prompt, "which colour ?", {"kind": "bolts"}) == "look . which colour ?"
    assert render(prompt, "which colour ?", {}) == "look . which colour ?"


@given(st.text(min_size=1))
def test_a_plain_prompt_is_the_question(question: str) -> None:
    assert render(Prompt(), question, {}) == question.strip()


@given(st.text())
def test_braces_in_a_question_are_left_alone(text: str) -> None:
    question = text + "{question}{0}{hint}"
    assert render(Prompt(template="q {question}"), question, {}) == f"q {question}".strip()
