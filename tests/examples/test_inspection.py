"""The inspection example: its drawing, its rows, its published models, and the training that made them."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

HERE = Path(__file__).parents[2] / "examples" / "inspection"
sys.path.insert(0, str(HERE))
draw: Any = importlib.import_module("draw")
family: Any = importlib.import_module("family")
train_family: Any = importlib.import_module("train_family")
train_exemplars: Any = importlib.import_module("train_exemplars")
MODELS = sorted((HERE / "models").glob("inspection-?/config.json"))

MICRO = family.Size(vision_width=64, vision_layers=1, vision_ffn=64, text_width=64, text_layers=1, text_ffn=64)
BRIEF = train_family.Recipe(steps=6, sight_steps=2, batch=2, lr=1e-3, warmup=2, pictures=8, bf16=False)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tuple[dict[str, str], Any]]]:
    return {split: list(draw.rows(split, 0)) for split in draw.ROWS}


def test_drawing_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "ROWS", dict.fromkeys(draw.ROWS, 8))
    draw.write(tmp_path / "a", 0)
    draw.write(tmp_path / "b", 0)
    draw.write(tmp_path / "c", 1)
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(files) == 5 * (8 + 1)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert any((tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes() for file in files)
    before = {file: (tmp_path / "a" / file).stat().st_mtime_ns for file in files}
    draw.write(tmp_path / "a", 0)
    assert before == {file: (tmp_path / "a" / file).stat().st_mtime_ns for file in files}


def test_no_picture_is_in_two_splits(splits: dict[str, list[tuple[dict[str, str], Any]]]) -> None:
    digests = [hashlib.sha256(pixels.tobytes()).digest() for rows in splits.values() for _, pixels in rows]
    digests += [hashlib.sha256(draw.family_picture(0, index)[0].tobytes()).digest() for index in range(300)]
    assert len(set(digests)) == len(digests)


def test_rows_are_well_formed_and_balanced(splits: dict[str, list[tuple[dict[str, str], Any]]]) -> None:
    known_words = set(draw.words())
    for split, pairs in splits.items():
        rows = [row for row, _ in pairs]
        assert len({row["id"] for row in rows}) == len(rows) == draw.ROWS[split]
        kinds = Counter(row["kind"] for row in rows)
        assert set(kinds) == set(draw.KINDS)
        assert max(kinds.values()) - min(kinds.values()) <= 1
        for row, pixels in pairs:
            assert set(row) == {"id", "image", "question", "answer", "kind", "wording"}
            assert pixels.shape == (64, 64, 3)
            assert pixels.dtype == np.uint8
            assert row["answer"] in draw.ANSWERS[row["kind"]]
            assert 1 <= len(row["answer"].split()) <= 5
            assert set(f"{row['question']} {row['answer']}".split()) <= known_words
            new = row["question"] == draw.KEPT_OUT[row["kind"]]
            assert row["wording"] == ("kept_out" if new else "known")
            assert new or row["question"] in draw.KNOWN[row["kind"]]
        share = sum(row["wording"] == "kept_out" for row in rows) / len(rows)
        assert abs(share - 0.5) < 0.02 if split in ("dev", "search", "holdout") else 0.1 < share < 0.3
        by_kind = Counter((row["kind"], row["answer"]) for row in rows)
        guess = sum(max(n for (kind, _), n in by_kind.items() if kind == k) for k in draw.KINDS) / len(rows)
        assert guess < 0.45


def test_family_training_never_asks_in_a_kept_out_wording() -> None:
    assert not set(draw.KEPT_OUT.values()) & {wording for known in draw.KNOWN.values() for wording in known}
    rng = np.random.default_rng(0)
    prompts = [train_family.ask(rng, kind) for _ in range(1000) for kind in draw.KINDS]
    assert not any(wording in prompt for prompt in prompts for wording in draw.KEPT_OUT.values())
    assert sum(prompt in draw.KNOWN[draw.KINDS[i % 6]] for i, prompt in enumerate(prompts)) > 0.35 * len(prompts)


def test_task_and_prompts_agree_with_the_code() -> None:
    task = yaml.safe_load((HERE / "task.yaml").read_text())
    assert task["hints"] == {"field": "kind", "values": draw.HINTS}
    templates = yaml.safe_load((HERE / "space.yaml").read_text())["axes"]["prompt"]["template"]
    assert set(templates) <= set(train_family.PROMPTS.values())
    used = {word for prompt in train_family.PROMPTS.values() for word in prompt.split() if not word.startswith("{")}
    assert used <= set(draw.words())


def test_packed_branches_equal_questions_asked_alone() -> None:
    model, words = family.build(MICRO, 0).eval(), family.tokenizer()
    pixels = family.normalised(draw.family_picture(0, 0)[0][None])
    pairs = [(f"{draw.KNOWN[kind][0]} {draw.HINTS[kind]}", draw.ANSWERS[kind][-1]) for kind in draw.KINDS]
    alone, tokens = 0.0, 0
    for prompt, answer in pairs:
        text = words.apply_chat_template(
            [{"role": "user", "content": f"<image>\n{prompt}"}], add_generation_prompt=True, tokenize=False
        )
        assert text == family.prompt_text(prompt)
        asked = words(text.replace("<image>", "<image>" * 64), add_special_tokens=False).input_ids
        said = words(f"{answer} <eos>", add_special_tokens=False).input_ids
        ids = torch.tensor([asked + said])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]
        alone += torch.nn.functional.cross_entropy(
            logits[len(asked) - 1 : -1], torch.tensor(said), reduction="sum"
        ).item()
        tokens += len(said)
    with torch.inference_mode():
        visual = train_family.visual_tokens(model, pixels)
        packed = train_family.answer_loss(model, visual, train_family.pack([pairs], words)).item()
    assert packed == pytest.approx(alone / tokens, rel=1e-4)


def test_talks_are_of_one_kind_about_other_pictures_and_never_in_a_kept_out_wording() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw.family_facts(0, index)[0] for index in range(8)]
    for asked in range(8):
        for _ in range(50):
            talk = train_exemplars.talk(rng, scenes, asked)
            assert talk.pictures[-1] == asked
            assert len(set(talk.pictures)) == len(talk.pictures) == len(talk.questions) in (2, 3)
            kinds = {
                kind
                for kind in draw.KINDS
                if all(
                    scenes[row].answer(kind) == answer for row, answer in zip(talk.pictures, talk.answers, strict=True)
                )
            }
            assert kinds
            assert not set(talk.questions) & set(draw.KEPT_OUT.values())


def test_talk_loss_equals_the_whole_model_on_each_conversation() -> None:
    model, words = family.build(MICRO, 0), family.tokenizer()
    model = family.widened(model, MICRO, 1).eval()
    pixels = family.normalised(np.stack([draw.family_picture(0, index)[0] for index in range(4)]))
    talks = [
        train_exemplars.Talk((0, 1), ("name the digit .", "what is this ?"), ("red", "in the red zone")),
        train_exemplars.Talk((1, 2, 3), ("a ?", "b ?", "no digit seven ?"), ("one", "none", "two")),
    ]
    alone, tokens = 0.0, 0
    for talk in talks:
        text = "<bos>"
        for question, answer in zip(talk.questions, talk.answers, strict=True):
            text += f"user : {'<image>' * 64}\n{question} assistant : {answer}<eos>"
        ids = torch.tensor([words(text, add_special_tokens=False).input_ids])
        said = words(f"{talk.answers[-1]}<eos>", add_special_tokens=False).input_ids
        with torch.inference_mode():
            shown = pixels[list(talk.pictures)]
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=shown).logits[0]
        targets = torch.tensor(said)
        alone += torch.nn.functional.cross_entropy(logits[-len(said) - 1 : -1], targets, reduction="sum").item()
        tokens += len(said)
    with torch.inference_mode():
        visual = train_family.visual_tokens(model, pixels)
        together = train_exemplars.talk_loss(model, words, visual, talks).item()
    assert together == pytest.approx(alone / tokens, rel=1e-4)


def test_widening_keeps_what_the_model_says() -> None:
    narrow, words = family.build(MICRO, 0).eval(), family.tokenizer()
    wide = family.widened(narrow, MICRO, 1).eval()
    ids = torch.tensor([words("user : which way does the arrow point ?", add_special_tokens=False).input_ids])
    with torch.inference_mode():
        before, after = narrow(input_ids=ids).logits, wide(input_ids=ids).logits
    assert after.shape[-1] == family.VOCABULARY
    assert torch.equal(after[..., : family.FIRST_ROWS], before)


def test_killed_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(train_family, "SAVE_EVERY", 2)
    whole = train_family.train("x", MICRO, BRIEF, tmp_path / "whole", tmp_path / "w1")

    true_step = train_family.step

    def dying(state: Any, *rest: Any) -> Any:
        if state.step == 5:
            raise RuntimeError("killed")
        return true_step(state, *rest)

    monkeypatch.setattr(train_family, "step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train_family.train("x", MICRO, BRIEF, tmp_path / "halves", tmp_path / "w2")
    assert not (tmp_path / "halves").exists()
    monkeypatch.setattr(train_family, "step", true_step)
    resumed = train_family.train("x", MICRO, BRIEF, tmp_path / "halves", tmp_path / "w2")
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
    assert (tmp_path / "halves" / "inspection-x" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "inspection-x" / "model.safetensors"
    ).read_bytes()
    with pytest.raises(SystemExit, match="another recipe"):
        train_family.train("x", MICRO, replace(BRIEF, lr=2e-3), tmp_path / "halves", tmp_path / "w2")


@pytest.mark.parametrize("config", MODELS, ids=lambda path: path.parent.name)
def test_published_model_loads_cleanly_and_answers(config: Path) -> None:
    folder = config.parent
    model, words = family.load(folder)
    assert not (folder / "chat_template.jinja").exists()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    pixels = np.stack([draw.family_picture(0, 20_000_000 + index)[0] for index in range(2)])
    text = family.prompt_text(draw.KNOWN["light"][0])
    inputs = processor(images=list(pixels), text=[text, text], return_tensors="pt", add_special_tokens=False)
    assert torch.allclose(inputs["pixel_values"], family.normalised(pixels), atol=1e-5)
    assert (
        inputs["input_ids"].tolist()
        == words([text.replace("<image>", "<image>" * 64)] * 2, add_special_tokens=False).input_ids
    )
    training = json.loads((folder / "training.json").read_text())
    answers = family.answer(model, words, pixels, [draw.KNOWN["light"][0]] * 2)
    truth = [draw.family_facts(0, 20_000_000 + index)[0].light for index in range(2)]
    assert training["provisional"] or answers == truth
