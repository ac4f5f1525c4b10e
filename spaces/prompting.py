"""Rendering of prompts. Runs on the host and, from a bundle's manifest, on the device: standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

QUESTION = "{question}"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is put around a question.

    Attributes:
        template: text with ``{question}`` in it exactly once.
        hint_field: the field of a sample whose value picks the hint; empty for no hints.
        hints: hint texts by the value of that field; the hint follows the rendered template.
    """

    template: str = QUESTION
    hint_field: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)


def render(prompt: Prompt, question: str, fields: Mapping[str, str]) -> str:
    """The text the model is asked: template around the question, then the hint for this sample if there is one."""
    text = prompt.template.replace(QUESTION, question)
    hint = prompt.hints.get(fields.get(prompt.hint_field, ""), "") if prompt.hint_field else ""
    return f"{text} {hint}".strip()
