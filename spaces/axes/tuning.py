"""The axis of tuning: adapters that are merged, the projector alone, or every weight."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.checkpoint import load_strict, save
from spaces.axes.layout import Layout
from spaces.axes.quiet import quiet
from spaces.axes.supervised import IGNORED, Example, examples, laid_out
from spaces.axes.tuning_visual import Visual
from spaces.errors import StageFailed

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 16
BUCKET_BATCHES = 16
WARMUP_SHARE = 0.1
LAST_RATE_SHARE = 0.1
CLIP = 1.0
RATES = MappingProxyType({"lora": 2e-3, "dora": 2e-3, "projector": 3e-3, "full": 3e-4})
ADAPTERS = ("lora", "dora")


class Tuning:
    """Knobs ``method``, ``steps`` of 16 samples, ``rank`` of adapters, ``rate`` (peak learning rate).

    ``lora`` (Hu et al., arXiv 2106.09685) and ``dora`` (Liu et al., arXiv 2402.09353): adapters on every linear layer
    of the language model but the head, scaled by 2 (alpha is twice the rank), no dropout, merged at the end.
    ``projector``: the multimodal projector alone. ``full``: vision tower, projector and language model; heads that
    pruning has set to zero get no gradient and stay so.

    The loss is the cross-entropy of answer tokens and the end token alone. AdamW without weight decay, linear warm-up
    over a tenth of the steps, a cosine to a tenth of the rate; gradient norm at most 1. After pruning this is recovery.
    """

    name = "tuning"
    version = 2
    tools: tuple[str, ...] = ("torch", "transformers", "peft", "safetensors", "tokenizers", "pillow")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "method": Domain(
                kind="choice", default="none", values=("none", *RATES), help="which weights are adapted, and how"
            ),
            "steps": Domain(
                kind="int", default=150, low=1, high=100_000, when={"method": tuple(RATES)}, help="optimizer steps"
            ),
            "rank": Domain(
                kind="int", default=8, low=1, high=256, when={"method": ADAPTERS}, help="rank of the adapters"
            ),
            "rate": Domain(
                kind="float",
                default=0.0,
                low=0.0,
                high=1.0,
                when={"method": tuple(RATES)},
                help="peak learning rate; 0 is the method's own",
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return choice["method"] != "none"

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ("train",) if self.changes(choice) else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        """Writes the tuned checkpoint, its config as before. Deterministic for one seed, torch and number of threads.

        Raises:
            StageFailed: there are no samples, a loss is not finite, or a sample cannot be laid out.
        """
        train = samples.get("train", ())
        if not train:
            raise StageFailed(f"tuning.method {choice['method']} needs the split `train`, and the task has none.")
        model = load_strict(source, "float32")
        layout = Layout(source)
        rows = examples(layout, train)
        import torch

        with quiet("transformers", "peft"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            visual = Visual(model, layout, tower_learns=choice["method"] == "full")
            _train(model, visual, rows, choice, seed)
        save(model, source, target)


def _train(model: Any, visual: Visual, rows: list[Example], choice: Choice, seed: int) -> None:
    import torch

    method, steps = str(choice["method"]), int(choice["steps"])
    language, learned = _prepared(model, method, int(choice["rank"]))
    weights = [parameter for parameter in learned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=float(choice["rate"]) or RATES[method], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    learned.train()
    for step, batch in zip(range(1, steps + 1), _batches(rows, seed), strict=False):
        loss = _loss(model, language, visual, batch)
        if not math.isfinite(loss.item()):
            raise StageFailed(f"the tuning loss is not finite at step {step} of {steps}: lower tuning.rate.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        schedule.step()
    learned.eval()
    if method in ADAPTERS:
        language.merge_and_unload()


def _prepared(model: Any, method: str, rank: int) -> tuple[Any, Any]:
    """The language model to run, with adapters where the method has some, and the module whose weights learn."""
    language = model.model.language_model
    model.requires_grad_(method == "full")
    if method == "projector":
        return language, model.model.multi_modal_projector.requires_grad_(True)
    if method == "full":
        return language, model
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", use_dora=method == "dora")
    adapted = get_peft_model(language, settings)
    return adapted, adapted


def rate_share(step: int, steps: int) -> float:
    """The learning rate at a step from 0 as a share of its peak: linear warm-up, then a cosine."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(rows: list[Example], seed: int) -> Iterator[list[Example]]:
    """Endless batches of like lengths: each epoch is shuffled, cut into buckets, and each bucket sorted by length."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(order), BATCH * BUCKET_BATCHES):
            bucket = sorted(order[start : start + BATCH * BUCKET_BATCHES], key=lambda row: rows[row].length)
            batches = [bucket[first : first + BATCH] for first in range(0, len(bucket), BATCH)]
            for number in rng.permutation(len(batches)):
                yield [rows[row] for row in batches[number]]


def _loss(model: Any, language: Any, visual: Visual, batch: list[Example]) -> "Tensor":
    """Mean cross-entropy over the batch's answer tokens."""
    import torch

    embedded, wanted = laid_out(model, batch, visual([example.image for example in batch]))
    hidden = language(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    answered = wanted[:, 1:] != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[answered]), wanted[:, 1:][answered])


AXIS = Tuning()
