"""Scoring of f32 bundles at nearly the speed of bf16: answers are drafted in bf16, doubtful ones repeated in f32.

A greedy answer changes only where an error of the logits exceeds the distance of the best from the second best. The
first questions are answered both ways; ``SAFETY`` times the largest change of a margin among them is the tolerance. A
draft whose margin is below it is answered again as pinned. There are no drafts where the CPU has no bf16, nor
where the vision graph picks tokens by their values: a small error then picks others, and margins do not show it.

The tolerance is a rule of thumb, not a bound. ``SAFETY`` was chosen on the search rows of 24 bundles of the inspection
family (with 2, one kept draft of some 10,000 differed); on 512 train rows that it was not chosen on, none of 9,878 did.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware_profiles.messages import Answer
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.openvino_batch import BatchedEngine
from spaces.fitting import Fit

CALIBRATION = 32  # questions
SAFETY = 4.0
_PRECISION = "INFERENCE_PRECISION_HINT"


class DraftingEngine:
    """Batched answers as the pinned precision gives them."""

    def __init__(self, folder: Path, fit: Fit, pins: Mapping[str, Any], tokenizer: Any, config: Any) -> None:
        import openvino as ov

        self._exact = BatchedEngine(folder, fit, pins, tokenizer, config)
        self._draft: BatchedEngine | None = None
        has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if pins[_PRECISION] == "f32" and has_bf16 and not picks_tokens(folder):
            self._draft = BatchedEngine(folder, fit, {**pins, _PRECISION: "bf16"}, tokenizer, config)
        self._changes: list[float] = []
        self._drafted = self._repeated = 0

    @property
    def tolerance(self) -> float:
        """The margin, in logits, below which a draft is not believed."""
        return SAFETY * max(self._changes, default=0.0)

    @property
    def note(self) -> str:
        """How many answers are drafts, for the record."""
        kept = self._drafted - self._repeated
        return f"{kept} of {self._drafted} in bf16, by margins over {self.tolerance:.3g}" if self._draft else "none"

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers in the order of ``questions``."""
        if self._draft is None:
            return self._exact.answer_many(questions)[0]
        questions = self._exact.retrieved(questions)
        learn = max(0, min(CALIBRATION - len(self._changes), len(questions)))
        answers = self._both_ways(self._draft, questions[:learn])
        rest = questions[learn:]
        if rest:
            drafts, margins = self._draft.answer_many(rest)
            doubtful = [row for row, margin in enumerate(margins) if margin < self.tolerance]
            self._drafted += len(rest)
            self._repeated += len(doubtful)
            if doubtful:
                repeated = self._exact.answer_many([rest[row] for row in doubtful])[0]
                for row, answer in zip(doubtful, repeated, strict=True):
                    drafts[row] = answer
            answers += drafts
        return answers

    def _both_ways(self, draft: BatchedEngine, questions: Sequence[Question]) -> list[Answer]:
        if not questions:
            return []
        answers, exact = self._exact.answer_many(questions)
        _, drafted = draft.answer_many(questions)
        self._changes += [abs(one - other) for one, other in zip(exact, drafted, strict=True)]
        return answers


def picks_tokens(folder: Path) -> bool:
    """Whether the vision graph chooses among its tokens by their values."""
    import openvino as ov

    vision = ov.Core().read_model(folder / "openvino_vision_embeddings_model.xml")
    return any(node.get_type_name() == "TopK" for node in vision.get_ops())
