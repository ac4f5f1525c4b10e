"""Rows with their answers, laid out as the deployed pipeline lays out prompts: for tuning and calibration in torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.axes.layout import Layout, spliced
from spaces.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt, the image token in it once, and of its answer up to and with the end token."""

    image: Path
    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


def examples(layout: Layout, samples: Sequence[Sample]) -> list[Example]:
    """The samples with their canonical answers.

    Raises:
        StageFailed: as `Layout.prompt_ids`.
    """
    return [
        Example(sample.image, *layout.prompt_and_answer_ids(sample.question, sample.answers[0])) for sample in samples
    ]


def laid_out(model: Any, batch: Sequence[Example], visual: "Tensor") -> "tuple[Tensor, Tensor]":
    """Embeddings, (row, position, width), and the token wanted at each position: `IGNORED` outside of answers.

    ``visual`` are the projected visual tokens, (row, token, width). Padding stands right, where a causal model does not
    see it.
    """
    import torch

    image_token = int(model.config.image_token_id)
    rows = [[*spliced(one.prompt, image_token, visual.shape[1]), *one.answer] for one in batch]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    wanted = torch.full_like(ids, IGNORED)
    places = torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(batch):
        end = len(rows[row])
        wanted[row, end - len(example.answer) : end] = torch.tensor(example.answer)
        first = example.prompt.index(image_token)
        places[row, first : first + visual.shape[1]] = True
    embedded = model.get_input_embeddings()(ids).masked_scatter(places[..., None], visual)
    return embedded, wanted
