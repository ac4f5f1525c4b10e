"""The second stage of the family's training: solved examples with their own pictures, and a wider vocabulary.

    python examples/inspection/train_exemplars.py [--sizes n s m l] [--first FOLDER] [--out examples/inspection/models]

Goes on from the folders of the first stage (`train_family.py`). Each step repeats the first stage's questions and adds
conversations: one or two solved turns about other pictures, then the asked turn, all of one kind, laid out as the chat
template renders them. In most of them the asked wording is a row of random words, so that only the solved turns tell
what is asked; the spare words take part in it, so that their embeddings are not fresh when another task needs them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
import draw
import family
import train_family
from train_family import Pool, ask, pack, visual_tokens

HERE = Path(__file__).parent
WORDS = tuple(word for word in (*draw.words(), *draw.SPARE_WORDS) if word.isalpha())


@dataclass(frozen=True, kw_only=True)
class Second:
    """How one size goes on."""

    steps: int
    lr: float
    pictures: int = 16  # a step, each with a question of every kind
    conversations: int = 16  # a step
    warmup: int = 30
    bf16: bool = True
    seed: int = 1


RECIPES = {
    "n": Second(steps=600, lr=1e-3, bf16=False),
    "s": Second(steps=500, lr=6e-4),
    "m": Second(steps=400, lr=2.5e-4),
    "l": Second(steps=300, lr=1.5e-4),
}


@dataclass(frozen=True)
class Talk:
    """A conversation: the rows of the batch's pictures it shows, its questions and its answers, the asked one last."""

    pictures: tuple[int, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def talk(rng: np.random.Generator, scenes: list[draw.Scene], asked: int) -> Talk:
    """One or two solved turns of a kind about other pictures, then that kind asked about picture `asked`."""
    kind = draw.KINDS[int(rng.integers(len(draw.KINDS)))]
    others = rng.permutation([row for row in range(len(scenes)) if row != asked])[: 1 + int(rng.random() < 0.6)]
    rows = (*(int(row) for row in others), asked)
    strange = babble(rng)
    questions = [
        strange if rng.random() < (0.7 if row == asked else 0.4) else _pick(rng, draw.KNOWN[kind]) for row in rows
    ]
    return Talk(rows, tuple(questions), tuple(scenes[row].answer(kind) for row in rows))


def babble(rng: np.random.Generator) -> str:
    """Three to seven random words with a stop: a question in a wording that nobody knows."""
    chosen = [_pick(rng, WORDS) for _ in range(int(rng.integers(3, 8)))]
    return " ".join([*chosen, "?" if rng.random() < 0.5 else "."])


def talk_loss(
    model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast, visual_BND: Tensor, talks: list[Talk]
) -> Tensor:
    """Mean cross-entropy of the asked turns' answers, with the end token."""
    rows, answers = [], []
    for one in talks:
        chat = []
        for question, answer in zip(one.questions, one.answers, strict=True):
            chat += [
                {"role": "user", "content": f"{family.IMAGE}\n{question}"},
                {"role": "assistant", "content": answer},
            ]
        text = words.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        text = text.replace(family.IMAGE, family.IMAGE * family.VISUAL_TOKENS)
        said = words(f"{one.answers[-1]}{family.EOS}", add_special_tokens=False).input_ids
        rows.append(words(text, add_special_tokens=False).input_ids + said)
        answers.append(len(said))
    longest = max(map(len, rows))
    ids = torch.tensor([row + [words.pad_token_id] * (longest - len(row)) for row in rows])
    targets = torch.full_like(ids, -100)
    for place, (row, count) in enumerate(zip(rows, answers, strict=True)):
        targets[place, len(row) - count : len(row)] = torch.tensor(row[-count:])
    visual = torch.cat([visual_BND[picture] for one in talks for picture in one.pictures])
    inner = model.model
    embedded = inner.get_input_embeddings()(ids)
    spot = ids == model.config.image_token_id
    embedded = embedded.masked_scatter(spot[..., None], visual.to(embedded.dtype))
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    scored = targets[:, 1:] >= 0
    return nn.functional.cross_entropy(model.lm_head(hidden[scored]).float(), targets[:, 1:][scored])


def train(name: str, recipe: Second, first: Path, out: Path, pool: Pool) -> None:
    """The published folder of a size from its first stage's folder."""
    folder = first / f"inspection-{name}"
    narrow, _ = family.load(folder)
    model = family.widened(narrow, family.SIZES[name], recipe.seed)
    model.set_attn_implementation("float_sdpa")
    words = family.tokenizer()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    pace = train_family.Recipe(steps=recipe.steps, sight_steps=0, batch=1, lr=recipe.lr, warmup=recipe.warmup)
    begun, curve, lately = time.monotonic(), [], []
    model.train()
    for step in range(recipe.steps):
        rng = np.random.default_rng([recipe.seed, 2, step])
        chosen = rng.integers(len(pool.pixels), size=recipe.pictures)
        scenes = [draw.family_facts(0, int(index))[0] for index in chosen]
        pixels = family.normalised(pool.pixels[chosen])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            visual_BND = visual_tokens(model, pixels)
            questions = [[(ask(rng, kind), facts.answer(kind)) for kind in draw.KINDS] for facts in scenes]
            plain = train_family.answer_loss(model, visual_BND, pack(questions, words))
            talks = [talk(rng, scenes, row % recipe.pictures) for row in range(recipe.conversations)]
            shown = talk_loss(model, words, visual_BND, talks)
            loss = plain + shown
        for group in optimizer.param_groups:
            group["lr"] = train_family.rate(step, pace)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lately.append((plain.item(), shown.item()))
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            means = np.mean(lately, axis=0)
            seconds = round(time.monotonic() - begun, 1)
            curve.append(
                {"step": step + 1, "seconds": seconds, "loss": round(means[0], 4), "talk_loss": round(means[1], 4)}
            )
            lately.clear()
            print(name, json.dumps(curve[-1]), flush=True)
    training: dict[str, Any] = json.loads((folder / "training.json").read_text())
    training |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "second": {"recipe": asdict(recipe), "seconds": curve[-1]["seconds"], "curve": curve},
    }
    family.save(model, out / f"inspection-{name}", training)


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the inspection family on, with solved examples.")
    parser.add_argument("--sizes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--first", type=Path, required=True, help="folder of the first stage's models")
    parser.add_argument("--out", type=Path, default=HERE / "models")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool.kept(train_family.RECIPES["s"].pictures, 0, options.work)
    for name in options.sizes:
        train(name, RECIPES[name], options.first, options.out, pool)
        train_family.score(options.out / f"inspection-{name}", 0)


if __name__ == "__main__":
    main()
