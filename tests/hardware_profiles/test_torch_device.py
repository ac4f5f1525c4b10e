"""Torch in other types and on a GPU; what needs a GPU runs where there is one."""

from pathlib import Path

import pytest
import torch

from hardware_profiles.messages import Request
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import cuda, find
from hardware_profiles.runtimes.torch import _Clock
from spaces.errors import BadInput
from tests.hardware_profiles.conftest import Sealed

ON_GPU = ("f32", "bf16", "f16") if torch.cuda.is_available() else ()
PLACES = [("cpu", "bf16"), *(("cuda", precision) for precision in ON_GPU)]


@pytest.mark.parametrize(("device", "precision"), PLACES)
def test_a_pinned_type_is_the_one_computed_in(
    sealed: Sealed, requests: tuple[Request, ...], device: str, precision: str
) -> None:
    """The answers are those of the model as transformers loads it in that type, by its own processor."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    bundle = sealed("torch", device=device, inference_precision=precision, kv_cache_precision=precision)
    asker = Asker(bundle.folder, bundle.manifest.prompt)
    questions = [asker.question(request) for request in requests[:8]]
    session = find("torch").load(bundle)
    peak = session.accelerator_peak_bytes()  # type: ignore[attr-defined]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[precision]
    assert session.properties["dtype"] == str(dtype)
    assert session.properties["device"].startswith(device)
    model = LlavaForConditionalGeneration.from_pretrained(bundle.folder, dtype=dtype).eval().to(device)
    processor = AutoProcessor.from_pretrained(bundle.folder)
    wanted = []
    for question in questions:
        chat = [{"role": "user", "content": f"<image>\n{question.prompt}"}]
        text = processor.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=question.image_HWC, text=text, add_special_tokens=False, return_tensors="pt")
        inputs = inputs.to(device)
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        wanted.append((processor.tokenizer.decode(made, skip_special_tokens=True), len(made)))
    timings = [session.answer(question) for question in questions]
    assert [(timing.text, len(timing.token_ms)) for timing in timings] == wanted
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    assert peak is None if device == "cpu" else peak >= weights
    if device == "cuda":
        assert session.properties["cuda.tf32"] == "false"


def test_every_stamp_waits_for_the_device() -> None:
    waits: list[float] = []
    clock = _Clock(lambda: waits.append(0.0))
    clock.mark("vision")()
    clock.stamp(torch.zeros(1, 1, dtype=torch.long), None)
    clock.now()
    assert len(waits) == 3
    assert len(clock.tokens) == len(clock.marks) == 1


def test_without_a_gpu_a_bundle_for_one_is_refused(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="the bundle runs on cuda, and"):
        find("torch").load(sealed("torch", device="cuda"))


def test_the_drivers_version_is_read_from_its_own_file(tmp_path: Path) -> None:
    """The file is that of NVIDIA's README (460.80, chapter 20); it prints no example, so that these are unverified."""
    path = tmp_path / "version"
    assert cuda.driver(path) == "unknown"
    for line, version in {
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024": "550.54.15",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build": "560.35.03",
        "": "unknown",
    }.items():
        path.write_text(line + "\nGCC version:  gcc version 12.2.0\n")
        assert cuda.driver(path) == version
