"""The axis of tuning: LoRA on the language model, merged into the checkpoint."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.checkpoint import load_strict, save
from spaces.axes.layout import Layout, spliced
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from spaces.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 16
BUCKET_BATCHES = 16
WARMUP_SHARE = 0.1
LAST_RATE_SHARE = 0.1
CLIP = 1.0
CACHE_BYTES = 1 << 30
_IGNORED = -100


class Tuning:
    """Knobs ``method`` (none, lora), ``steps`` of 16 samples, ``rank``, ``rate`` (peak learning rate).

    LoRA (Hu et al., arXiv 2106.09685) on every linear layer of the language model but the head, scaled by 2 (alpha is
    twice the rank), no dropout. The loss is the cross-entropy of answer tokens and the end token alone. AdamW without
    weight decay, linear warm-up over a tenth of the steps, a cosine to a tenth of the rate; gradient norm at most 1.
    The vision tower and projector are frozen, so each image goes through them once.
    """

    name = "tuning"
    version = 1
    tools: tuple[str, ...] = ("torch", "transformers", "peft", "safetensors", "tokenizers", "pillow")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "method": Domain(kind="choice", default="none", values=("none", "lora"), help="how weights are adapted"),
            "steps": Domain(
                kind="int", default=150, low=1, high=100_000, when={"method": ("lora",)}, help="optimizer steps"
            ),
            "rank": Domain(
                kind="int", default=8, low=1, high=256, when={"method": ("lora",)}, help="rank of the adapters"
            ),
            "rate": Domain(
                kind="float", default=2e-3, low=1e-6, high=1.0, when={"method": ("lora",)}, help="peak learning rate"
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return choice["method"] != "none"

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ("train",) if self.changes(choice) else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        """Writes the merged checkpoint. Deterministic for one seed, torch build and number of threads.

        Raises:
            StageFailed: there are no samples, a loss is not finite, or a sample cannot be laid out.
        """
        train = samples.get("train", ())
        if not train:
            raise StageFailed("tuning.method lora needs the split `train`, and the task has none.")
        model = load_strict(source, "float32")
        examples = _examples(Layout(source), train)
        import torch

        with quiet("transformers", "peft"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _train(model, _Features(model, Layout(source)), examples, choice, seed)
        save(model, source, target)


@dataclass(frozen=True)
class _Example:
    image: Path
    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


def _examples(layout: Layout, train: Sequence[Sample]) -> list[_Example]:
    return [
        _Example(sample.image, *layout.prompt_and_answer_ids(sample.question, sample.answers[0])) for sample in train
    ]


class _Features:
    """The projected visual tokens of images, each image computed once as long as they fit into 1 GiB."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._known: dict[Path, Tensor] = {}

    def __call__(self, images: Sequence[Path]) -> "Tensor":
        """The features of the images, (image, visual token, width)."""
        import torch

        new = [path for path in dict.fromkeys(images) if path not in self._known]
        found = dict(self._known)
        if new:
            with torch.no_grad():
                pixels = torch.from_numpy(self._layout.pixels(new))
                features = self._model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            found |= dict(zip(new, features, strict=True))
            if sum(one.nbytes for one in found.values()) <= CACHE_BYTES:
                self._known = found
        return torch.stack([found[path] for path in images])


def _train(model: Any, features: _Features, examples: list[_Example], choice: Choice, seed: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    steps, rank = int(choice["steps"]), int(choice["rank"])
    language = model.model.language_model
    adapted = get_peft_model(language, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    adapters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=float(choice["rate"]), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    adapted.train()
    for step, batch in zip(range(1, steps + 1), _batches(examples, seed), strict=False):
        loss = _loss(model, adapted, features, batch)
        if not math.isfinite(loss.item()):
            raise StageFailed(f"the tuning loss is not finite at step {step} of {steps}: lower tuning.rate.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(adapters, CLIP)
        optimizer.step()
        schedule.step()
    adapted.eval()
    adapted.merge_and_unload()


def rate_share(step: int, steps: int) -> float:
    """The learning rate at a step from 0 as a share of its peak: linear warm-up, then a cosine."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(examples: list[_Example], seed: int) -> Iterator[list[_Example]]:
    """Endless batches of like lengths: each epoch is shuffled, cut into buckets, and each bucket sorted by length."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(examples))
        for start in range(0, len(order), BATCH * BUCKET_BATCHES):
            bucket = sorted(order[start : start + BATCH * BUCKET_BATCHES], key=lambda row: examples[row].length)
            batches = [bucket[first : first + BATCH] for first in range(0, len(bucket), BATCH)]
            for number in rng.permutation(len(batches)):
                yield [examples[row] for row in batches[number]]


def _loss(model: Any, adapted: Any, features: _Features, batch: list[_Example]) -> "Tensor":
    """Mean cross-entropy over the batch's answer tokens. Padding stands right, where a causal model does not see it."""
    import torch

    visual = features([example.image for example in batch])
    image_token = int(model.config.image_token_id)
    rows = [[*spliced(one.prompt, image_token, visual.shape[1]), *one.answer] for one in batch]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    wanted = torch.full_like(ids, _IGNORED)
    for row, example in enumerate(batch):
        end = len(rows[row])
        wanted[row, end - len(example.answer) : end] = torch.tensor(example.answer)
    with torch.no_grad():
        places = torch.zeros_like(ids, dtype=torch.bool)
        for row, example in enumerate(batch):
            first = example.prompt.index(image_token)
            places[row, first : first + visual.shape[1]] = True
        embedded = model.get_input_embeddings()(ids).masked_scatter(places[..., None], visual)
    hidden = adapted(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    answered = wanted[:, 1:] != _IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[answered]), wanted[:, 1:][answered])


AXIS = Tuning()
