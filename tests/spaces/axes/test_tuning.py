import math
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spaces.axes import Samples, pruning
from spaces.axes.checkpoint import load_strict
from spaces.axes.layout import Layout
from spaces.axes.tuning import AXIS, RATES, rate_share
from spaces.axes.tuning_visual import Visual
from spaces.errors import StageFailed
from tests.spaces.axes.conftest import QUESTION, Apply, contents, full_choice
from tests.spaces.axes.variants import write_variant

FILE = "model.safetensors"
EMBEDDINGS = "model.language_model.model.embed_tokens.weight"

LORA: dict[str, Any] = {"method": "lora", "rank": 8, "rate": 1e-2}
PARTS = {
    "lora": ("language_model",),
    "dora": ("language_model",),
    "projector": ("multi_modal_projector",),
    "full": ("language_model", "multi_modal_projector", "vision_tower"),
}


def _answer_loss(folder: Path, samples: Samples) -> float:
    """Cross-entropy of answer and end token through transformers' own processor and forward pass."""
    import torch
    from transformers import AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model = load_strict(folder)
    words = AutoTokenizer.from_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    losses = []
    for sample in samples["train"]:
        from PIL import Image

        text = f"<bos>user : {'<image>' * 4}\n{QUESTION} assistant : {sample.answers[0]}<eos>"
        ids = words(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        labels = torch.full_like(ids, -100)
        labels[:, -2:] = ids[:, -2:]
        pixels = images(images=Image.open(sample.image), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, pixel_values=pixels, labels=labels).loss))
    return sum(losses) / len(losses)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "rate"), [("lora", 1e-2), ("dora", 1e-2), ("projector", 3e-2), ("full", 1e-2)])
def test_tuning_lowers_the_loss_of_the_deployed_layout_and_changes_its_part_alone(
    method: str, rate: float, tiny_checkpoint: Path, apply: Apply, axis_samples: Samples
) -> None:
    before = contents(tiny_checkpoint)
    tuned = apply(AXIS, tiny_checkpoint, steps=40, method=method, rate=rate)
    assert contents(tiny_checkpoint) == before
    assert _answer_loss(tuned, axis_samples) < 0.5 * _answer_loss(tiny_checkpoint, axis_samples)
    old, new = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tuned))
    changed = {name for name in old if not (old[name] == new[name]).all()}
    assert old.keys() == new.keys()
    assert {part for name in changed for part in PARTS["full"] if part in name} == set(PARTS[method])
    if method in ("lora", "dora"):
        assert all("_proj.weight" in name for name in changed)


@pytest.mark.parametrize("method", sorted(PARTS))
def test_one_seed_gives_one_result(method: str, tiny_checkpoint: Path, apply: Apply) -> None:
    once, again, other = (
        contents(apply(AXIS, tiny_checkpoint, name, seed, steps=3, method=method))
        for name, seed in (("once", 1), ("again", 1), ("other", 2))
    )
    assert once == again
    assert once != other


def test_a_rate_of_nought_is_the_methods_own(tiny_checkpoint: Path, apply: Apply) -> None:
    for method in ("dora", "full"):
        own, given = (
            contents(apply(AXIS, tiny_checkpoint, f"{method}-{one}", steps=1, method=method, rate=one))
            for one in (0.0, RATES[method])
        )
        assert own == given


def test_lora_adds_a_matrix_of_its_rank_and_dora_rescales_its_rows_too(tiny_checkpoint: Path, apply: Apply) -> None:
    """DoRA's weight is m (W + BA) / |W + BA|, row by row: divided by its scale it differs from W by rank 2 as well."""
    name = "model.language_model.model.layers.0.self_attn.q_proj.weight"
    weight = load_file(tiny_checkpoint / "model.safetensors")[name].astype(np.float64)
    tuned = {
        method: load_file(apply(AXIS, tiny_checkpoint, method, method=method, rank=2, rate=1e-2, steps=40) / FILE)[name]
        for method in ("lora", "dora")
    }
    third = {
        method: np.linalg.svd(new.astype(np.float64) - weight, compute_uv=False)[2] for method, new in tuned.items()
    }
    rounding = np.abs(weight).max() * 2**-10 * np.sqrt(len(weight))
    assert third["lora"] < rounding
    assert third["dora"] > 3 * rounding
    outside = _outside_of_rank_two(tuned["dora"].astype(np.float64), weight)
    assert outside < rounding


@pytest.mark.parametrize("kind", ["siglip-llama", "clip-qwen2"])
def test_full_tuning_keeps_dead_heads_dead_and_tied_embeddings_tied(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, apply: Apply
) -> None:
    source = write_variant(tmp_path / "source", tiny_checkpoint, kind)
    pruned = apply(pruning.AXIS, source, "pruned", vision_heads=0.5)
    tuned = apply(AXIS, pruned, "tuned", method="full", steps=5, rate=1e-3)
    old, new = (load_file(folder / "model.safetensors") for folder in (pruned, tuned))
    moved = 0
    for name in old:
        if (
            "vision_tower" in name
            and ".layers." in name
            and name.endswith(("v_proj.weight", "v_proj.bias", "out_proj.weight"))
        ):
            dead = old[name] == 0
            assert 0.4 < dead.mean() < 0.6
            assert (new[name][dead] == 0).all()
            moved += int((new[name] != old[name]).sum())
    assert moved > 1000
    model = load_strict(tuned)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind == "siglip-llama")
    assert (new[EMBEDDINGS] != old[EMBEDDINGS]).any()


def test_a_frozen_tower_sees_each_image_once(tiny_checkpoint: Path, tiny_images: list[Path]) -> None:
    import torch

    model, layout = load_strict(tiny_checkpoint), Layout(tiny_checkpoint)
    seen: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda _, inputs, named: seen.append(len(inputs[0] if inputs else named["pixel_values"])), with_kwargs=True
    )
    visual = Visual(model, layout, tower_learns=False)
    first, images = visual(tiny_images[:3]), [tiny_images[4], tiny_images[1], tiny_images[4]]
    second = visual(images)
    assert seen == [3, 1]
    expected = Visual(model, layout, tower_learns=True)(images)
    assert torch.allclose(second, expected, atol=1e-5)
    assert torch.equal(first[1], second[1])
    assert second.requires_grad
    assert not visual._known[tiny_images[0]].requires_grad


def _outside_of_rank_two(rescaled: Any, weight: Any) -> float:
    """How far some row scaling of ``rescaled`` can be brought to ``weight`` plus a matrix of rank 2 (Frobenius)."""
    scale = np.ones(len(weight))
    for _ in range(60):
        left, values, right = np.linalg.svd(rescaled / scale[:, None] - weight, full_matrices=False)
        near = weight + (left[:, :2] * values[:2]) @ right[:2]
        scale = (rescaled * near).sum(axis=1) / (near * near).sum(axis=1)
    return float(np.linalg.svd(rescaled / scale[:, None] - weight, compute_uv=False)[2])


def test_nothing_is_printed(tiny_checkpoint: Path, apply: Apply, capfd: pytest.CaptureFixture[str]) -> None:
    apply(AXIS, tiny_checkpoint, steps=2, **LORA)
    assert capfd.readouterr() == ("", "")


def test_a_diverging_run_fails_with_its_step(tiny_checkpoint: Path, apply: Apply) -> None:
    with pytest.raises(StageFailed, match=r"not finite at step \d+ of 50: lower tuning.rate"):
        apply(AXIS, tiny_checkpoint, steps=50, method="lora", rate=1e30)


def test_without_samples_it_fails(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="split `train`"):
        AXIS.apply(full_choice(AXIS, LORA), tiny_checkpoint, tmp_path, {}, 0)


def test_it_can_be_interrupted(tiny_checkpoint: Path, apply: Apply) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            apply(AXIS, tiny_checkpoint, steps=100_000, **LORA)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[55] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 2)))
    assert 0.1 < shares[-1] < 0.101


def test_every_method_changes_the_artifact_and_reads_samples() -> None:
    assert not AXIS.changes({"method": "none"})
    assert AXIS.reads({"method": "none"}) == ()
    for method in PARTS:
        assert AXIS.changes({"method": method})
        assert AXIS.reads({"method": method}) == ("train",)
