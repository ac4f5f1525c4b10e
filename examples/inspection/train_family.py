"""Trains the inspection family on its endless stream of drawn scenes; stop it whenever you like, and call it again.

    python examples/inspection/train_family.py [--sizes n s m l] [--out examples/inspection/models]
    python examples/inspection/train_family.py --card    # writes MODEL_CARD.md and curves.svg

Every step asks one question of each kind about each picture. The questions of a picture are packed behind its visual
tokens as branches: each sees the picture and itself only, at the positions it has when it is asked alone, so that
training and deployment have the same token layout. The loss is on the answers. Beside it, while training, small heads
read off the visual tokens what lies in each patch and what the scene's facts are; for the first `sight_steps` steps
this is the only loss and the language model rests. The heads are not published.

Prompts: mostly a plain question in a known wording; some with an instruction, some with the hint that lists the
answers, and some with one solved example. Where a hint or an example tells what is asked, the question is often a row
of random words from the vocabulary: so the family learns to go by the hint, and a wording that it never saw becomes
answerable at the price of a longer prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

sys.path.insert(0, str(Path(__file__).parent))
import card
import draw
import family

HERE = Path(__file__).parent
Labels: TypeAlias = npt.NDArray[np.int64]

# What the sight heads read: the number of classes of each fact. -100 marks "not there" (the place of no defect).
FACTS = {
    "light": len(draw.LIGHTS),
    **{f"bolt {place}": 2 for place in range(len(draw.BOLTS))},
    "guard": len(draw.GUARDS),
    "gauge": len(draw.GAUGES),
    "orientation": len(draw.ORIENTATIONS),
    "flaw": 3,
    "place": len(draw.PLACES),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one size is trained."""

    steps: int
    sight_steps: int
    batch: int  # pictures a step
    lr: float
    warmup: int = 100  # steps
    final_lr: float = 0.02  # of lr, reached by a cosine
    weight_decay: float = 0.01
    clip: float = 1.0
    sight_weight: float = 0.3  # of the sight loss beside the answer loss
    pictures: int = 32_000  # different pictures
    bf16: bool = True  # matrix products in bfloat16; weights and optimizer in float32
    seed: int = 0


# Step counts spread the family on purpose: with 1000 steps s would pass m. See MODEL_CARD.md.
RECIPES = {
    "n": Recipe(steps=900, sight_steps=300, batch=32, lr=3e-3, bf16=False),
    "s": Recipe(steps=800, sight_steps=400, batch=32, lr=1.5e-3),
    "m": Recipe(steps=850, sight_steps=400, batch=32, lr=1.2e-3),
    "l": Recipe(steps=1300, sight_steps=500, batch=32, lr=1e-3),
}
PROMPTS = {
    "plain": "{question}",
    "inspector": "you are a factory inspector . {question}",
    "hint": "{question} {hint}",
    "inspector_hint": "you are a factory inspector . {question} {hint}",
}
SAVE_EVERY = 100  # steps
PUBLISH_EVERY = 200  # steps


def float_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention in float32 also under autocast: on CPUs its bfloat16 kernel takes twice the time."""
    with torch.autocast("cpu", enabled=False):
        context, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **settings
        )
    return context, weights


AttentionInterface.register("float_sdpa", float_attention)
AttentionMaskInterface.register("float_sdpa", sdpa_mask)


class Sight(nn.Module):
    """Reads the scene off the visual tokens: what lies in each patch, and each fact of the whole.

    A patch is read by a linear classifier; a fact by a learned query: a softmax over tokens, then a linear classifier.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 1 + len(draw.MARKS))
        self.queries = nn.Parameter(torch.randn(len(FACTS), width) * width**-0.5)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in FACTS.values())

    def forward(self, visual_BND: Tensor, patches_BN: Tensor, labels_BF: Tensor) -> dict[str, Tensor]:
        """The mean cross-entropies over patches and over facts, and the share of facts read rightly."""
        weights_BFN = (self.queries @ visual_BND.transpose(1, 2)).softmax(-1)
        read_BFD = weights_BFN @ visual_BND
        losses, right = [], []
        for fact, head in enumerate(self.heads):
            logits, labels = head(read_BFD[:, fact]).float(), labels_BF[:, fact]
            losses.append(nn.functional.cross_entropy(logits, labels))
            right.append((logits.argmax(-1) == labels)[labels >= 0].float().mean())
        weights = torch.tensor([0.05] + [1.0] * len(draw.MARKS))  # of an empty patch, and of the others
        patch_logits = self.patch(visual_BND).float().flatten(0, 1)
        return {
            "patch_loss": nn.functional.cross_entropy(patch_logits, patches_BN.flatten(), weights),
            "fact_loss": torch.stack(losses).mean(),
            "facts": torch.stack(right).mean(),
        }


def labels(facts: draw.Scene) -> list[int]:
    """The class of each of FACTS."""
    flaw, _, place = facts.defect.partition(" near the ")
    return [
        draw.LIGHTS.index(facts.light),
        *(int(place in facts.missing) for place in range(len(draw.BOLTS))),
        draw.GUARDS.index(facts.guard),
        draw.GAUGES.index(facts.gauge),
        draw.ORIENTATIONS.index(facts.orientation),
        ("no defect", "scratch", "dent").index(flaw),
        draw.PLACES.index(place) if place else -100,
    ]


def ask(rng: np.random.Generator, kind: draw.Kind) -> str:
    """A training prompt for a question of this kind; kept-out wordings never occur."""
    question = _pick(rng, draw.KNOWN[kind])
    roll = rng.random()
    if roll < 0.3:
        if rng.random() < 0.5:
            question = _babble(rng)
        question = f"{question} {draw.HINTS[kind]}"
    elif roll < 0.4:
        first = _pick(rng, draw.KNOWN[kind]) if rng.random() < 0.7 else _babble(rng)
        if rng.random() < 0.5:
            question = _babble(rng)
        question = f"example : {first} {_pick(rng, draw.ANSWERS[kind])} . {question}"
    if rng.random() < 0.25:
        question = f"{_pick(rng, draw.INSTRUCTIONS)} {question}"
    return question


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Branches of B pictures: (B, T) tokens behind V prefix positions."""

    ids: Tensor
    positions: Tensor
    seen: Tensor  # (B, 1, T, T) bool: query may see key
    targets: Tensor  # the token to be predicted at a position, -100 where there is no loss


def pack(questions: Sequence[Sequence[tuple[str, str]]], words: PreTrainedTokenizerFast) -> Pack:
    """Lays out (prompt, answer) pairs per picture; `questions[b]` belong to picture b."""
    stem, tail = family.prompt_text("").split("\n")
    prefix = words(stem.replace(family.IMAGE, family.IMAGE * family.VISUAL_TOKENS), add_special_tokens=False).input_ids
    tables: list[list[tuple[int, int, int, int]]] = []  # token, position, branch, target
    for pairs in questions:
        table = [(token, place, 0, -100) for place, token in enumerate(prefix)]
        for branch, (prompt, answer) in enumerate(pairs, start=1):
            asked = words(prompt + tail, add_special_tokens=False).input_ids
            said = words(answer + family.EOS, add_special_tokens=False).input_ids
            tokens = asked + said[:-1]
            targets = [-100] * (len(asked) - 1) + said
            table += [
                (token, len(prefix) + place, branch, target)
                for place, (token, target) in enumerate(zip(tokens, targets, strict=True))
            ]
        tables.append(table)
    longest = max(map(len, tables))
    pad = (words.pad_token_id, 0, -1, -100)
    laid = torch.tensor([table + [pad] * (longest - len(table)) for table in tables])
    ids, positions, branches, targets = laid.unbind(-1)
    order = torch.arange(longest)
    same = branches[:, :, None] == branches[:, None, :]
    prefix_key = (branches == 0)[:, None, :]
    seen = (same | prefix_key) & (order[:, None] >= order[None, :])
    return Pack(ids=ids, positions=positions, seen=seen[:, None], targets=targets)


def visual_tokens(model: LlavaForConditionalGeneration, pixels_BCHW: Tensor) -> Tensor:
    """(B, 64, text width): what stands for the picture in the language model's input."""
    features = model.model.get_image_features(
        pixels_BCHW,
        vision_feature_layer=model.config.vision_feature_layer,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
    ).pooler_output
    return torch.stack(list(features))


def answer_loss(model: LlavaForConditionalGeneration, visual_BND: Tensor, batch: Pack) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    inner = model.model
    embedded = inner.get_input_embeddings()(batch.ids)
    spot = batch.ids == model.config.image_token_id
    embedded = embedded.masked_scatter(spot[..., None], visual_BND.to(embedded.dtype))
    hidden = inner.language_model(
        inputs_embeds=embedded, attention_mask=batch.seen, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    scored = batch.targets >= 0
    return nn.functional.cross_entropy(model.lm_head(hidden[scored]).float(), batch.targets[scored])


@dataclass(frozen=True)
class Pool:
    """Pictures (N, 64, 64, 3) of the stream's first scenes, and what lies in each of their 64 patches (0: nothing)."""

    pixels: draw.Pixels
    patches: npt.NDArray[np.uint8]

    @classmethod
    def drawn(cls, first: int, count: int, seed: int) -> Pool:
        pixels = np.zeros((count, draw.SIZE, draw.SIZE, 3), np.uint8)
        patches = np.zeros((count, family.VISUAL_TOKENS), np.uint8)
        for row in range(count):
            pixels[row], marks = draw.family_picture(seed, first + row)
            for what, x, y in marks:
                spot = int(y // family.PATCH) * (draw.SIZE // family.PATCH) + int(x // family.PATCH)
                patches[row, spot] = 1 + draw.MARKS.index(what)
        return cls(pixels, patches)

    @classmethod
    def kept(cls, count: int, seed: int, work: Path) -> Pool:
        """Drawn once and kept in two files."""
        paths = [work / f"{name}-{seed}-{count}.npy" for name in ("pixels", "patches")]
        if not all(path.exists() for path in paths):
            work.mkdir(parents=True, exist_ok=True)
            pool = cls.drawn(0, count, seed)
            for path, array in zip(paths, (pool.pixels, pool.patches), strict=True):
                part = path.with_suffix(f".{os.getpid()}.part")
                with part.open("wb") as file:
                    np.save(file, array)
                part.replace(path)
        return cls(*(np.load(path, mmap_mode="r") for path in paths))


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate of a step: linear warm-up, then a cosine."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(kw_only=True)
class State:
    """All that training needs to go on; saved whole, in one file."""

    model: LlavaForConditionalGeneration
    sight: Sight
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]]

    @classmethod
    def fresh(cls, size: family.Size, recipe: Recipe) -> State:
        model = family.build(size, recipe.seed)
        model.set_attn_implementation("float_sdpa")
        sight = Sight(size.text_width)
        parameters = [*model.parameters(), *sight.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        return cls(model=model, sight=sight, optimizer=optimizer, curve=[])

    def parameters(self) -> dict[str, nn.Parameter]:
        named = {f"model.{name}": p for name, p in self.model.named_parameters()}
        return named | {f"sight.{name}": p for name, p in self.sight.named_parameters()}

    def save(self, path: Path, recipe: Recipe) -> None:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters().items():
            tensors[name] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{name}|{key}"] = value
        kept = {"recipe": asdict(recipe), "step": self.step, "seconds": self.seconds, "curve": self.curve}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"state": json.dumps(kept)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)

    def load(self, path: Path, recipe: Recipe) -> None:
        with safe_open(path, "pt") as file:
            kept = json.loads(file.metadata()["state"])
            if kept["recipe"] != asdict(recipe):
                raise SystemExit(f"{path} holds a run with another recipe; move it away to start anew")
            self.step, self.seconds, self.curve = kept["step"], kept["seconds"], kept["curve"]
            stored = set(file.keys())
            for name, parameter in self.parameters().items():
                parameter.data.copy_(file.get_tensor(name))
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}|{key}" in stored]
                if keys:
                    self.optimizer.state[parameter] = {key: file.get_tensor(f"{name}|{key}") for key in keys}


def train(
    name: str, size: family.Size, recipe: Recipe, out: Path, work: Path, *, stop_after: int | None = None
) -> State:
    """Trains until the recipe's last step, or until `stop_after` steps are done; publishes to `out` on the way."""
    state = State.fresh(size, recipe)
    kept = work / name / "state.safetensors"
    if kept.exists():
        state.load(kept, recipe)
    words = family.tokenizer()
    pool = Pool.kept(recipe.pictures, recipe.seed, work)
    end = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    last, sums = time.monotonic(), defaultdict[str, list[float]](list)
    while state.step < end:
        for key, value in step(state, recipe, pool, words).items():
            sums[key].append(value)
        state.step += 1
        if state.step % SAVE_EVERY == 0 or state.step == end:
            now = time.monotonic()
            state.seconds, last = state.seconds + now - last, now
            point: dict[str, Any] = {key: round(float(np.mean(values)), 4) for key, values in sums.items()}
            point = {"step": state.step, "seconds": round(state.seconds, 1), **point}
            if state.step > recipe.sight_steps and recipe.steps > SAVE_EVERY:
                items = Items.fresh(recipe.seed, 96)
                point["check"] = {way: accuracy(state.model, words, items, PROMPTS[way]) for way in ("plain", "hint")}
            sums.clear()
            state.curve.append(point)
            print(name, json.dumps(point), flush=True)
            state.save(kept, recipe)
            if state.step > recipe.sight_steps and state.step % PUBLISH_EVERY == 0 and state.step < end:
                publish(name, size, recipe, state, out)
            last = time.monotonic()
    if state.step == recipe.steps:
        publish(name, size, recipe, state, out)
    return state


def step(state: State, recipe: Recipe, pool: Pool, words: PreTrainedTokenizerFast) -> dict[str, float]:
    """One optimizer step; its batch depends on the recipe's seed and the step number only."""
    rng = np.random.default_rng([recipe.seed, 1, state.step])
    chosen = rng.integers(len(pool.pixels), size=recipe.batch)
    scenes = [draw.family_facts(recipe.seed, int(index))[0] for index in chosen]
    state.model.train()
    pixels = family.normalised(pool.pixels[chosen])
    told: dict[str, float] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        visual_BND = visual_tokens(state.model, pixels)
        facts_BF = torch.tensor([labels(facts) for facts in scenes])
        seen = state.sight(visual_BND, torch.from_numpy(pool.patches[chosen].astype(np.int64)), facts_BF)
        told |= {key: value.item() for key, value in seen.items()}
        loss = seen["patch_loss"] + seen["fact_loss"]
        if state.step >= recipe.sight_steps:
            questions = [[(ask(rng, kind), facts.answer(kind)) for kind in draw.KINDS] for facts in scenes]
            spoken = answer_loss(state.model, visual_BND, pack(questions, words))
            told["loss"] = spoken.item()
            loss = spoken + recipe.sight_weight * loss
    for group in state.optimizer.param_groups:
        group["lr"] = rate(state.step, recipe)
    state.optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, recipe.clip)
    state.optimizer.step()
    return told


@dataclass(frozen=True, kw_only=True)
class Items:
    """Pictures with a question, its answer, kind and wording each."""

    pixels: draw.Pixels
    rows: list[dict[str, str]]

    @classmethod
    def dev(cls, seed: int) -> Items:
        rows, pixels = zip(*draw.rows("dev", seed), strict=True)
        return cls(pixels=np.stack(pixels), rows=list(rows))

    @classmethod
    def fresh(cls, seed: int, count: int) -> Items:
        """Scenes far along the family's stream, each asked in a known and in the kept-out wording of one kind."""
        first, rows = 10_000_000, []
        pixels = Pool.drawn(first, count, seed).pixels
        for index in range(count):
            kind = draw.KINDS[index % len(draw.KINDS)]
            known = draw.KNOWN[kind][index // len(draw.KINDS) % len(draw.KNOWN[kind])]
            answer = draw.family_facts(seed, first + index)[0].answer(kind)
            for wording, question in (("known", known), ("kept_out", draw.KEPT_OUT[kind])):
                rows.append({"kind": kind, "wording": wording, "question": question, "answer": answer})
        return cls(pixels=np.repeat(pixels, 2, axis=0), rows=rows)


def accuracy(
    model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast, items: Items, template: str
) -> dict[str, dict[str, float]]:
    """Exact match by wording, and within a wording over all kinds and by kind."""
    hints = {str(kind): hint for kind, hint in draw.HINTS.items()}
    prompts = [template.format(question=row["question"], hint=hints[row["kind"]]) for row in items.rows]
    answers = family.answer(model, words, items.pixels, prompts)
    right = defaultdict[str, dict[str, list[bool]]](lambda: defaultdict(list))
    for row, said in zip(items.rows, answers, strict=True):
        for group in ("all", row["kind"]):
            right[row["wording"]][group].append(said == row["answer"])
    return {
        wording: {group: round(sum(hits) / len(hits), 3) for group, hits in groups.items()}
        for wording, groups in right.items()
    }


def score(folder: Path, seed: int) -> None:
    """Adds to a published folder's training.json its accuracy on the dev split and on 600 fresh scenes."""
    model, words = family.load(folder)
    training = json.loads((folder / "training.json").read_text())
    for name, items in (("dev", Items.dev(seed)), ("fresh", Items.fresh(seed, 600))):
        training[name] = {prompt: accuracy(model, words, items, template) for prompt, template in PROMPTS.items()}
    family.write_json(folder / "training.json", training)
    print(folder.name, {way: values["known"]["all"] for way, values in training["fresh"].items()}, flush=True)


def publish(name: str, size: family.Size, recipe: Recipe, state: State, out: Path) -> None:
    """Swaps in the model's folder as trained so far."""
    training = {
        "family": "inspection",
        "size": name,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "shape": asdict(size),
        "recipe": asdict(recipe),
        "provisional": state.step < recipe.steps,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "curve": state.curve,
    }
    family.save(state.model, out / f"inspection-{name}", training)


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


_WORDS = tuple(word for word in draw.words() if word.isalpha())


def _babble(rng: np.random.Generator) -> str:
    """Three to seven random words with a stop: a question in a wording that nobody knows."""
    chosen = rng.integers(len(_WORDS), size=int(rng.integers(3, 8)))
    return " ".join([*(_WORDS[index] for index in chosen), "?" if rng.random() < 0.5 else "."])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the inspection family.")
    parser.add_argument("--sizes", nargs="+", choices=list(family.SIZES), default=list(family.SIZES))
    parser.add_argument("--out", type=Path, default=HERE / "models")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--score", action="store_true", help="only score the published folders again")
    parser.add_argument("--card", action="store_true", help="only write the model card")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.card else options.sizes:
        if not options.score:
            train(name, family.SIZES[name], RECIPES[name], options.out, options.work)
        score(options.out / f"inspection-{name}", RECIPES[name].seed)
    if options.card:
        card.write(options.out, HERE)


if __name__ == "__main__":
    main()
