"""One row of a task: an image, a question and the answers that count as right."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image-question-answer row.

    Attributes:
        id: unique within its task.
        image: path of the image file.
        question: the question as the user's application asks it, before any prompt.
        answers: reference answers, the first one canonical; at least one.
        fields: every other field of the row, as text (``kind``, ``wording``): slices and hints are picked by them.
    """

    id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)

    def value(self, field: str) -> str:
        """What rows are told apart by: a field's text (empty without it); ``answer`` is the canonical answer."""
        return self.answers[0] if field == "answer" else self.fields.get(field, "")
