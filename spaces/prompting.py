"""Rendering of prompts. Runs on the host and, from a bundle's manifest, on the device: standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

QUESTION = "{question}"
MOST_EXEMPLARS = 8
CHOICES = ("fixed", "random", "nearest")
ORDERS = ("forward", "reversed")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is put around a question.

    Attributes:
        template: text with ``{question}`` in it exactly once.
        hint_field: the field of a sample whose value picks the hint; empty for no hints.
        hints: hint texts by the value of that field; the hint follows the rendered template.
        exemplars: how many rows of the bundle's pool, each with its image, are shown before the question; 0 to 8.
        exemplar_choice: ``fixed`` and ``random``: the first ones of the pool, which then holds just those;
            ``nearest``: those whose images are nearest to the one that is asked about.
        exemplar_order: ``forward``, as in the pool and the nearest one last; ``reversed``.
        exemplar_field: the field of a sample whose value its exemplars share; empty where any row may serve.
    """

    template: str = QUESTION
    hint_field: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)
    exemplars: int = 0
    exemplar_choice: str = "fixed"
    exemplar_order: str = "forward"
    exemplar_field: str = ""


def render(prompt: Prompt, question: str, fields: Mapping[str, str]) -> str:
    """The text the model is asked: template around the question, then the hint for this sample if there is one."""
    text = prompt.template.replace(QUESTION, question)
    hint = prompt.hints.get(fields.get(prompt.hint_field, ""), "") if prompt.hint_field else ""
    return f"{text} {hint}".strip()


def exemplar_group(prompt: Prompt, fields: Mapping[str, str]) -> str:
    """The group of pool rows that may serve a sample with these fields."""
    return fields.get(prompt.exemplar_field, "") if prompt.exemplar_field else ""


def in_order(prompt: Prompt, exemplars: Sequence[_Item]) -> tuple[_Item, ...]:
    """Exemplars, given in forward order, as the prompt shows them."""
    return tuple(exemplars) if prompt.exemplar_order == "forward" else tuple(reversed(exemplars))
