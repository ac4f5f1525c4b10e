import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardware_profiles.bundle import Bundle, Execution
from hardware_profiles.messages import Answer, Request
from hardware_profiles.runtimes import Question, capabilities, find
from hardware_profiles.runtimes.openvino import device_properties, sections
from hardware_profiles.runtimes.openvino_batch import BatchedEngine
from hardware_profiles.runtimes.torch import check_loading
from spaces.errors import BadInput
from spaces.fitting import Fit, fitted, normalised
from spaces.images import read_image
from spaces.prompting import render

Sealed = Callable[..., Bundle]


def asked(bundle: Bundle, requests: tuple[Request, ...]) -> list[Question]:
    prompt = bundle.manifest.prompt
    return [
        Question(id=r.id, image_HWC=read_image(Path(r.image)), prompt=render(prompt, r.question, r.fields))
        for r in requests
    ]


def test_importing_the_room_loads_no_engine() -> None:
    code = (
        "import sys; import hardware_profiles.agent.supervisor, hardware_profiles.agent.cli, hardware_profiles.profile;"
        "import hardware_profiles.agent.runner; from hardware_profiles.runtimes import capabilities; capabilities();"
        "print(sorted({'torch', 'transformers', 'openvino', 'openvino_genai', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_capabilities_are_data_by_runtime() -> None:
    known = capabilities()
    assert known["openvino"]["quantization.weights"] == ("fp16", "int8", "int4")
    assert known["torch"]["visual_tokens.keep"] == (1.0,)
    with pytest.raises(BadInput, match=r"runtime\.name is 'tflite'"):
        find("tflite")


def test_both_runtimes_answer_alike_singly_and_in_batches(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    openvino, torch = sealed("openvino"), sealed("torch")
    questions = asked(openvino, requests)
    fast, reference = find("openvino").load(openvino), find("torch").load(torch)
    singly = [reference.answer(question) for question in questions]
    texts = [timing.text for timing in singly]
    assert len(set(texts)) > 3
    assert len({len(timing.token_ms) for timing in singly}) > 1
    assert [answer.text for answer in reference.answer_many(questions)] == texts
    assert [fast.answer(question).text for question in questions] == texts
    many = fast.answer_many(questions)
    assert [answer.text for answer in many] == texts
    assert [answer.id for answer in many] == [question.id for question in questions]
    assert [answer.tokens for answer in many] == [len(timing.token_ms) for timing in singly]


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_a_timing_adds_up(sealed: Sealed, requests: tuple[Request, ...], name: str) -> None:
    bundle = sealed(name, max_new_tokens=5)
    session = find(name).load(bundle)
    for question in asked(bundle, requests[:6]):
        timing = session.answer(question)
        assert timing.preprocess_ms is not None
        assert timing.vision_ms is not None
        assert timing.prefill_ms is not None
        parts = timing.preprocess_ms + timing.vision_ms + timing.prefill_ms
        assert min(timing.preprocess_ms, timing.vision_ms, timing.prefill_ms) > 0
        assert parts <= timing.ttft_ms * 1.02 + 0.05
        assert list(timing.token_ms) == sorted(timing.token_ms)
        assert timing.token_ms[0] == pytest.approx(timing.ttft_ms)
        assert timing.token_ms[-1] <= timing.e2e_ms
        assert 1 <= len(timing.token_ms) <= 5


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("cache", ["f32", "f16", "bf16", "u8"])
def test_openvino_runs_as_pinned_and_says_so(sealed: Sealed, precision: str, cache: str) -> None:
    if precision == "bf16" and "bf16" not in _native():
        pytest.skip("this CPU has no bf16")
    session = find("openvino").load(sealed(inference_precision=precision, kv_cache_precision=cache))
    for model in ("language", "vision"):
        assert session.properties[f"{model}.INFERENCE_PRECISION_HINT"] == precision
        assert session.properties[f"{model}.KV_CACHE_PRECISION"] == cache
        assert session.properties[f"{model}.INFERENCE_NUM_THREADS"] == "1"
        assert session.properties[f"{model}.DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"


def _native() -> tuple[str, ...]:
    from hardware_profiles.profile import local

    return local().dtypes


def test_a_setting_that_the_engine_does_not_take_is_refused(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hardware_profiles.runtimes.openvino.device_properties",
        lambda execution: {**device_properties(execution), "INFERENCE_NUM_THREADS": 10_000},
    )
    with pytest.raises(BadInput, match="pins INFERENCE_NUM_THREADS to 10000, but openvino runs"):
        find("openvino").load(sealed())


def test_the_report_of_genai_is_read_by_model() -> None:
    report = "noise: 1\nModel: VLM language model\n  A: 1\n  B: x y\nDEVICES:\n CPU: z\nModel: other\n  A: 2\n"
    assert sections(report) == {"VLM language model": {"A": "1", "B": "x y"}, "other": {"A": "2"}}


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_a_file_that_the_runtime_needs_is_missed_by_name(sealed: Sealed, name: str) -> None:
    bundle = sealed(name)
    (bundle.folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadInput, match=r"preprocessor_config\.json is missing"):
        find(name).load(bundle)


def test_torch_refuses_a_checkpoint_with_other_weights_by_name(sealed: Sealed) -> None:
    from safetensors.torch import load_file, save_file

    bundle = sealed("torch")
    path = bundle.folder / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if key.endswith("o_proj.weight"))
    weights["stray.weight"] = weights.pop(name)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"missing keys: .*o_proj"):
        find("torch").load(bundle)
    with pytest.raises(BadInput, match=r"mismatched keys: a, b, c and 1 more"):
        check_loading(path, {"mismatched_keys": {"a", "b", "c", "d"}})


def test_torch_keeps_its_cache_in_the_type_of_its_arithmetic(sealed: Sealed) -> None:
    with pytest.raises(BadInput, match="bf16 arithmetic and a KV cache of f32"):
        find("torch").load(sealed("torch", inference_precision="bf16"))


def test_a_model_without_batches_is_asked_one_by_one(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed()
    questions = asked(bundle, requests[:5])
    expected = find("openvino").load(bundle).answer_many(questions)
    path = bundle.folder / "config.json"
    config = json.loads(path.read_text())
    del config["image_seq_length"]
    path.write_text(json.dumps(config))
    assert find("openvino").load(bundle).answer_many(questions) == expected


@pytest.mark.parametrize("size", [(16, 16), (40, 23), (23, 40), (9, 31), (160, 160)])
def test_images_are_fitted_as_transformers_fits_them(tiny_checkpoint: Path, size: tuple[int, int]) -> None:
    from transformers import AutoProcessor

    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    fit = Fit.read(tiny_checkpoint)
    processor = AutoProcessor.from_pretrained(tiny_checkpoint).image_processor
    expected = processor(Image.fromarray(pixels), return_tensors="np")
    ours = normalised([fitted(pixels, fit)], fit)
    np.testing.assert_allclose(ours, expected["pixel_values"], atol=1e-6)


def test_doubtful_drafts_are_answered_as_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardware_profiles.runtimes.openvino_draft import DraftingEngine

    class Engine:
        """Answers by number; in bf16 those divisible by 5 are wrong, and all margins change by 0.1."""

        def __init__(self, folder: Path, fit: object, pins: dict[str, str], *rest: object) -> None:
            self.shift = {"f32": 0.0, "bf16": 0.1}[pins["INFERENCE_PRECISION_HINT"]]
            self.asked = 0

        def retrieved(self, questions: list[Question]) -> list[Question]:
            return questions

        def answer_many(self, questions: list[Question]) -> tuple[list[Answer], list[float]]:
            self.asked += len(questions)
            numbers = [int(question.id) for question in questions]
            texts = [f"wrong {n}" if self.shift and n % 5 == 0 else f"right {n}" for n in numbers]
            answers = [Answer(id=str(n), text=text, tokens=1) for n, text in zip(numbers, texts, strict=True)]
            return answers, [(0.05 if n % 5 == 0 else 2.0) + self.shift for n in numbers]

    monkeypatch.setattr("hardware_profiles.runtimes.openvino_draft.BatchedEngine", Engine)
    monkeypatch.setattr("hardware_profiles.runtimes.openvino_draft.picks_tokens", lambda folder: folder == Path("topk"))
    monkeypatch.setattr("openvino.Core.get_property", lambda self, device, name: ["FP32", "BF16"])
    image = np.zeros((1, 1, 3), np.uint8)
    questions = [Question(id=str(number), image_HWC=image, prompt="") for number in range(100)]
    engine = DraftingEngine(Path(), None, {"INFERENCE_PRECISION_HINT": "f32"}, None, None)  # type: ignore[arg-type]
    answers = engine.answer_many(questions[:10]) + engine.answer_many(questions[10:])
    assert [answer.text for answer in answers] == [f"right {number}" for number in range(100)]
    assert engine.tolerance == pytest.approx(0.4)
    assert engine.note == "55 of 68 in bf16, by margins over 0.4"
    assert engine._exact.asked == 32 + 13  # type: ignore[attr-defined]
    pinned = DraftingEngine(Path(), None, {"INFERENCE_PRECISION_HINT": "bf16"}, None, None)  # type: ignore[arg-type]
    assert pinned.answer_many(questions[:6])[5].text == "wrong 5"
    assert pinned.note == "none"
    picking = DraftingEngine(Path("topk"), None, {"INFERENCE_PRECISION_HINT": "f32"}, None, None)  # type: ignore[arg-type]
    assert picking.note == "none"


def test_an_image_that_is_none_is_refused_by_name(tmp_path: Path, tiny_images: list[Path]) -> None:
    whole = tiny_images[0].read_bytes()
    for name, content in (("cut.png", whole[: len(whole) // 2]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name):
            read_image(tmp_path / name)


def test_an_image_that_would_start_another_program_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (20, 20)).save(path, format="EPS")
    started: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **more: started.append(given))
    with pytest.raises(BadInput, match=r"x\.png cannot be read as an image"):
        read_image(path)
    assert not started


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow itself warns of the first and refuses the second
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "big.png")
    with pytest.raises(BadInput, match=r"big\.png has more than 50,000,000 pixels"):
        read_image(tmp_path / "big.png")


def test_the_batched_engine_runs_as_pinned(tiny_openvino: Path) -> None:
    pins = device_properties(Execution(kv_cache_precision="f16"))
    fit = Fit.read(tiny_openvino)
    config = SimpleNamespace(stop_token_ids={1}, max_new_tokens=4)
    BatchedEngine(tiny_openvino, fit, pins, None, config)
    with pytest.raises(BadInput, match=r"pins INFERENCE_NUM_THREADS to 10000, but openvino runs its language model"):
        BatchedEngine(tiny_openvino, fit, pins | {"INFERENCE_NUM_THREADS": 10_000}, None, config)


def test_torch_never_trusts_code_of_a_checkpoint(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    trusted: list[object] = []
    for kind in (transformers.LlavaForConditionalGeneration, transformers.AutoProcessor):
        real = kind.from_pretrained

        def spy(*given: Any, _real: Any = real, **more: Any) -> Any:
            trusted.append(more.get("trust_remote_code"))
            return _real(*given, **more)

        monkeypatch.setattr(kind, "from_pretrained", spy)
    find("torch").load(sealed("torch"))
    assert trusted == [False, False]


def test_the_last_position_is_all_that_the_head_needs(tiny_openvino: Path) -> None:
    import openvino as ov

    from hardware_profiles.runtimes.openvino_graphs import keep_last_position

    core = ov.Core()
    rng = np.random.default_rng(0)
    feed = {
        "inputs_embeds": rng.standard_normal((3, 7, 64)).astype(np.float32),
        "attention_mask": np.ones((3, 7), np.int64),
        "position_ids": np.tile(np.arange(7), (3, 1)),
        "beam_idx": np.arange(3, dtype=np.int32),
    }
    logits = []
    for cut in (False, True):
        model = core.read_model(tiny_openvino / "openvino_language_model.xml")
        assert not cut or keep_last_position(model)
        request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        request.infer(feed)
        logits.append(request.get_tensor("logits").data.copy())
    assert logits[0].shape[1:] == (7, 64)
    assert logits[1].shape[1:] == (1, 64)
    np.testing.assert_allclose(logits[1][:, -1], logits[0][:, -1], atol=1e-4)


def test_a_quantized_cache_is_scored_one_by_one(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    session = find("openvino").load(sealed("openvino", kv_cache_precision="u8"))
    questions = [Question(id=r.id, image_HWC=read_image(Path(r.image)), prompt=r.question) for r in requests]
    assert len({len(question.prompt.split()) for question in questions}) > 2
    many = session.answer_many(questions)
    assert [answer.text for answer in many] == [session.answer(question).text for question in questions]
