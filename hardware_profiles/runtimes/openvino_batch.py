"""Batched greedy answering over the exported OpenVINO graphs of a LLaVA-layout model: the scoring path.

GenAI encodes images one by one, and its continuous batching gains nothing on one thread. Here the same graphs run with
the same properties: vision in batches, then left-padded prompts of like length through the stateful language model.
Prompts that begin alike, with the same examples, share what the language model holds behind them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware_profiles.messages import Answer
from hardware_profiles.runtimes import Example, Question
from hardware_profiles.runtimes.chat import chat, check_length
from hardware_profiles.runtimes.openvino_graphs import Floats, Graphs, Ids, Prefix, batches
from hardware_profiles.runtimes.openvino_prefixes import Prefixes, SeenImages
from spaces.fitting import Fit, fitted

LANGUAGE_BATCH = 32
LANGUAGE_TOKENS = 2560  # of all rows of a batch: bounds memory where prompts are long
HELD_TOKENS = 4 * LANGUAGE_TOKENS  # the same with a shared beginning, of which only keys and values are held


class BatchedEngine:
    """The exported models of one folder, compiled for batches."""

    def __init__(self, folder: Path, fit: Fit, pins: Mapping[str, Any], tokenizer: Any, config: Any) -> None:
        self._graphs = Graphs(folder, fit, pins, tokenizer, config)
        self._prefixes = Prefixes(self._graphs, fit)
        self._seen = SeenImages(self._graphs)
        self._fit = fit

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether the folder holds a model of the layout that this engine knows."""
        return Graphs.fits(folder)

    def retrieved(self, questions: Sequence[Question]) -> list[Question]:
        """The questions with the examples that hang on their images."""
        if not any(question.retrieve for question in questions):
            return list(questions)
        images = [fitted(question.image_HWC, self._fit) for question in questions]
        return [
            replace(question, examples=question.retrieve(image, tokens), retrieve=None)
            if question.retrieve
            else question
            for question, image, tokens in zip(questions, images, self._seen(images), strict=True)
        ]

    def answer_many(self, questions: Sequence[Question]) -> tuple[list[Answer], list[float]]:
        """Answers in the order of ``questions``, and each one's margin.

        The margin of an answer is the least distance, over its tokens, between the best logit and the second best.
        """
        questions = self.retrieved(questions)
        prompts = self._graphs.tokens([chat(question, question.examples) for question in questions])
        answers: dict[int, Answer] = {}
        margins: dict[int, float] = {}
        for prefix, rows in self._groups(questions, prompts):
            for chosen in self._batches(rows, questions, prompts, prefix):
                visual = self._see([questions[row] for row in chosen], prefix)
                asked = [prompts[row][len(prefix.ids) if prefix else 0 :] for row in chosen]
                embedded_BTD, mask_BT = self._graphs.lay_out(asked, visual)
                if any(questions[row].examples for row in chosen):
                    past = prefix.length if prefix else 0
                    check_length(past + mask_BT.shape[1] + self._graphs.cap, self._graphs.positions)
                generated, distances = self._graphs.generate(embedded_BTD, mask_BT, prefix)
                texts = self._graphs.text(generated)
                for row, tokens, text, distance in zip(chosen, generated, texts, distances, strict=True):
                    answers[row] = Answer(id=questions[row].id, text=text, tokens=len(tokens))
                    margins[row] = distance
        every = range(len(questions))
        return [answers[row] for row in every], [margins[row] for row in every]

    def _groups(self, questions: Sequence[Question], prompts: Sequence[Ids]) -> list[tuple[Prefix | None, list[int]]]:
        """Rows that share a beginning worth keeping, and those that do not."""
        sharing: dict[tuple[Example, ...], list[int]] = {}
        for row, question in enumerate(questions):
            sharing.setdefault(question.examples, []).append(row)
        groups: list[tuple[Prefix | None, list[int]]] = []
        rest = sharing.pop((), [])
        for examples, rows in sharing.items():
            prefix = self._prefixes.get(examples) if len(rows) > 1 or examples in self._prefixes else None
            alike = [row for row in rows if prefix and prefix.begins(prompts[row])]
            rest += [row for row in rows if row not in alike]
            if alike:
                groups.append((prefix, alike))
        return [*groups, (None, rest)] if rest else groups

    def _batches(
        self, rows: Sequence[int], questions: Sequence[Question], prompts: Sequence[Ids], prefix: Prefix | None
    ) -> list[Sequence[int]]:
        """Rows of like length together, as many as memory allows."""
        extra, past, shared = self._graphs.visual_tokens, 0, 0
        if prefix:
            past, shared = prefix.length, len(prefix.ids)
        lengths = {
            row: len(prompts[row]) - shared + extra * (1 if prefix else 1 + len(questions[row].examples))
            for row in rows
        }
        order = sorted(rows, key=lengths.__getitem__)
        longest = lengths[order[-1]]
        size = min(LANGUAGE_BATCH, LANGUAGE_TOKENS // longest, HELD_TOKENS // (past + longest))
        return list(batches(order, max(1, size)))

    def _see(self, questions: Sequence[Question], prefix: Prefix | None) -> list[list[Floats]]:
        """Visual tokens of every image of each question, those of a shared beginning left out."""
        shown = [() if prefix else question.examples for question in questions]
        if not any(shown):
            images = [fitted(question.image_HWC, self._fit) for question in questions]
            return [[tokens] for tokens in self._graphs.see(images)]
        images = []
        for question, examples in zip(questions, shown, strict=True):
            images += [fitted(example.image_HWC, self._fit) for example in examples]
            images.append(fitted(question.image_HWC, self._fit))
        found = iter(self._seen(images))
        return [[next(found) for _ in range(len(examples) + 1)] for examples in shown]
