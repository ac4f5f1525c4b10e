from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from spaces.axes import pruning, runtime
from spaces.axes.checkpoint import load_strict
from spaces.axes.dead_heads import live_heads, remove_dead_heads
from spaces.axes.pruning import SHARES
from spaces.axes.pruning_parts import heads, vision_layers
from tests.spaces.axes.conftest import QUESTION, Apply, genai_answers, vision_outputs
from tests.spaces.axes.variants import visual_tokens, write_variant


def _pixels(images: list[Path]) -> Any:
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float32) for path in images])
    return (pixels / 127.5 - 1).transpose(0, 3, 1, 2)


def _size(folder: Path) -> int:
    return (folder / "openvino_vision_embeddings_model.bin").stat().st_size


@pytest.mark.filterwarnings("ignore")
def test_exports_leave_dead_heads_out_and_give_the_same_visual_tokens(
    tiny_checkpoint: Path, exported: Path, tiny_images: list[Path], apply: Apply
) -> None:
    pruned = apply(pruning.AXIS, tiny_checkpoint, "pruned", vision_heads=0.5)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, pruned))
    assert {name: one.shape for name, one in before.items()} == {name: one.shape for name, one in after.items()}
    small = apply(runtime.AXIS, pruned, "small")
    # One of two heads of 32 in one layer of width 64: half of four 64 x 64 matrices in fp16, the rest is small biases.
    assert _size(exported) - _size(small) == pytest.approx(4 * 32 * 64 * 2, abs=1024)
    pixels = _pixels(tiny_images)
    expected = visual_tokens(pruned, pixels)
    assert np.abs(expected - visual_tokens(tiny_checkpoint, pixels)).max() > 1e-3
    assert np.allclose(vision_outputs(small, pixels), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["siglip-llama", "clip-qwen2"])
def test_every_part_pruned_at_once_exports_and_answers(
    kind: str, tiny_checkpoint: Path, tiny_images: list[Path], tmp_path: Path, apply: Apply
) -> None:
    source = write_variant(tmp_path / "source", tiny_checkpoint, kind)
    pruned = apply(pruning.AXIS, source, "pruned", importance="activations", **dict.fromkeys(SHARES, 0.4))
    small = apply(runtime.AXIS, pruned, "small")
    pixels = _pixels(tiny_images[:3])
    assert np.allclose(vision_outputs(small, pixels), visual_tokens(pruned, pixels), atol=2e-3)
    answers = [text for text, _ in genai_answers(small, tiny_images[:3], [QUESTION] * 3)]
    assert answers == _greedy(pruned, tiny_images[:3])


def _greedy(folder: Path, images: list[Path]) -> list[str]:
    import torch
    from transformers import AutoTokenizer

    model, words = load_strict(folder), AutoTokenizer.from_pretrained(folder)
    ids = words(f"<bos>user : {'<image>' * 4}\n{QUESTION} assistant :", add_special_tokens=False)["input_ids"]
    made = model.generate(
        input_ids=torch.tensor([ids] * len(images)),
        attention_mask=torch.ones(len(images), len(ids), dtype=torch.long),
        pixel_values=torch.from_numpy(_pixels(images)),
        max_new_tokens=6,
        do_sample=False,
    )
    return [words.decode(row[len(ids) :], skip_special_tokens=True).strip() for row in made]


def test_a_head_is_dead_when_either_side_of_it_is_zero_and_one_always_stays(tiny_checkpoint: Path) -> None:
    import torch

    model = load_strict(tiny_checkpoint)
    attention = heads(vision_layers(model))[0]
    assert live_heads(attention).tolist() == [0, 1]
    with torch.no_grad():
        attention.out.weight[:, :32] = 0
    assert live_heads(attention).tolist() == [1]
    with torch.no_grad():
        attention.value.weight[32:] = 0
        attention.value.bias[32:] = 1
    assert live_heads(attention).tolist() == [1]
    with torch.no_grad():
        attention.value.bias.zero_()
    assert live_heads(attention).tolist() == [0]
    remove_dead_heads(model)
    assert attention.query.weight.shape == (32, 64)
