"""The gate behind every export: the exported model has to answer like the checkpoint that it was made from."""

from collections.abc import Sequence
from pathlib import Path

from hardware_profiles.bundle import MANIFEST, Execution, seal
from hardware_profiles.messages import Request
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import Question, find
from spaces.errors import StageFailed
from spaces.prompting import Prompt
from spaces.sample import Sample

LEAST_SHARE = 0.95
"""Share of equal answers below which an export does not count as the model it was made from."""


def check_parity(
    source: Path, target: Path, runtime: str, samples: Sequence[Sample], max_new_tokens: int
) -> dict[str, int]:
    """Answer ``samples`` with the checkpoint in ``source`` and the export in ``target``, and count equal answers.

    Raises:
        StageFailed: fewer than 95 % of the answers are equal.
    """
    asker = Asker(target, Prompt())
    questions = [
        asker.question(Request(id=sample.id, image=str(sample.image), question=sample.question)) for sample in samples
    ]
    reference = _answers(source, "torch", questions, max_new_tokens)
    exported = _answers(target, runtime, questions, max_new_tokens)
    equal = sum(reference[question.id] == exported[question.id] for question in questions)
    if equal < LEAST_SHARE * len(questions):
        raise StageFailed(
            f"the {runtime} export answers {equal} of {len(questions)} samples like its checkpoint; "
            f"at least {LEAST_SHARE:.0%} are needed."
        )
    return {"parity_items": len(questions), "parity_equal": equal}


def _answers(folder: Path, runtime: str, questions: Sequence[Question], max_new_tokens: int) -> dict[str, str]:
    """The folder's answers by question id. It is a bundle only while it answers: the manifest goes again."""
    bundle = seal(
        folder,
        runtime=runtime,
        prompt=Prompt(),
        max_new_tokens=max_new_tokens,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    try:
        session = find(runtime).load(bundle)
        return {answer.id: answer.text for answer in session.answer_many(questions)}
    finally:
        (folder / MANIFEST).unlink()
