import math
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from safetensors.numpy import load_file

from spaces.axes import Samples
from spaces.axes.checkpoint import load_strict
from spaces.axes.tuning import AXIS, rate_share
from spaces.errors import StageFailed
from tests.spaces.axes.conftest import QUESTION, Apply, contents, full_choice

LORA: dict[str, Any] = {"method": "lora", "rank": 8, "rate": 1e-2}


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
def test_lora_lowers_the_loss_of_the_deployed_layout_and_leaves_the_source(
    tiny_checkpoint: Path, apply: Apply, axis_samples: Samples
) -> None:
    before = contents(tiny_checkpoint)
    tuned = apply(AXIS, tiny_checkpoint, steps=40, **LORA)
    assert contents(tiny_checkpoint) == before
    assert _answer_loss(tuned, axis_samples) < 0.5 * _answer_loss(tiny_checkpoint, axis_samples)
    old, new = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tuned))
    changed = {name for name in old if not (old[name] == new[name]).all()}
    assert old.keys() == new.keys()
    assert changed
    assert all("language_model" in name and "_proj.weight" in name for name in changed)


def test_one_seed_gives_one_result(tiny_checkpoint: Path, apply: Apply) -> None:
    once, again, other = (
        contents(apply(AXIS, tiny_checkpoint, name, seed, steps=3, **LORA))
        for name, seed in (("once", 1), ("again", 1), ("other", 2))
    )
    assert once == again
    assert once != other


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


def test_only_lora_changes_the_artifact_and_reads_samples() -> None:
    assert not AXIS.changes({"method": "none"})
    assert AXIS.reads({"method": "none"}) == ()
    assert AXIS.reads({"method": "lora"}) == ("train",)
