"""The axis of the prompt: what is put around a question. It never changes the artifact."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import link_others
from spaces.errors import BadInput
from spaces.prompting import QUESTION, Prompt


class PromptAxis:
    """Knobs ``template`` (text around the question) and ``hint`` (whether the task's hint for the sample follows)."""

    name = "prompt"
    version = 1
    tools: tuple[str, ...] = ()
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "template": Domain(
                kind="text", default=QUESTION, help="text with {question} in it exactly once", bound=True
            ),
            "hint": Domain(
                kind="flag",
                default=False,
                help="whether the task's hint on the answer follows the question",
                bound=True,
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:  # noqa: ARG002
        return False

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Links the artifact as it is: the prompt is bound into the manifest, see `bound_prompt`."""
        link_others(source, target, ())


def check_template(template: str, where: str) -> None:
    """Refuses a template without a place for the question; ``where`` names its file and field in the message.

    Raises:
        BadInput: ``{question}`` is not in it exactly once.
    """
    if template.count(QUESTION) != 1:
        raise BadInput(f"{where}: the template {template!r} must have {QUESTION} in it exactly once.")


def bound_prompt(choice: Choice, hint_field: str = "", hints: Mapping[str, str] | None = None) -> Prompt:
    """The prompt that a choice means for a task with these hints (by the value of the sample's field ``hint_field``).

    Raises:
        BadInput: as `check_template`; a hint is chosen but the task has none.
    """
    template = str(choice["template"])
    check_template(template, "prompt.template")
    if not choice["hint"]:
        return Prompt(template=template)
    if not hint_field or not hints:
        raise BadInput("prompt.hint is on, but the task has no hints: add `hints` to task.yaml or leave the knob out.")
    return Prompt(template=template, hint_field=hint_field, hints=dict(hints))


AXIS = PromptAxis()
