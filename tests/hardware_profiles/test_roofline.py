"""Counts of work against torch's own counter, the fit against a search of every support, intervals by simulation."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.profile import Processor, Profile
from hardware_profiles.roofline import Anchor, _fitted, calibrate, peak_of, predict, roof_ms
from spaces.axes import Value
from spaces.errors import BadInput
from spaces.estimate import estimate
from spaces.plugins import builtin
from spaces.shape import read_shape
from spaces.work import Phase, Work, language_operations, vision_operations, work

GIGA = 1e9


def profile(bandwidth: float | None = 10 * GIGA, f32: float | None = 100 * GIGA) -> Profile:
    cpu = Processor(bandwidth=bandwidth, peak={"f32": f32}, runtimes=("openvino",))
    known: dict[str, Any] = {"memory_bytes": 1 << 33, "threads": 4, "dtypes": ("f32",), "source": "made up"}
    return Profile(schema_id="vlmfront.profile/1", name="made-up", processors={"cpu": cpu}, **known)


def some_work(scale: float, tokens: float = 1.0, layers: int = 4) -> Work:
    """Work that grows with ``scale`` in everything, and with ``tokens`` in vision and prefill."""
    weights = scale * 1e6
    return Work(
        vision=Phase(bytes_read=weights, operations=64 * tokens * weights, layers=layers),
        prefill=Phase(bytes_read=weights, operations=48 * tokens * weights, layers=layers),
        decode=Phase(bytes_read=4 * weights, operations=4 * weights, layers=4 * layers),
        dtype="f32",
        calls=6,
        threads=4,
        memory_bytes=int(2 * weights),
    )


def choices(**changed: dict[str, Value]) -> dict[str, dict[str, Value]]:
    found = {axis.name: {name: domain.default for name, domain in axis.domains.items()} for axis in builtin()}
    for axis, values in changed.items():
        found[axis] |= values
    return found


def test_operations_are_those_that_torch_counts(tiny_checkpoint: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlavaForConditionalGeneration

    load: Any = LlavaForConditionalGeneration.from_pretrained
    model = load(tiny_checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    shape = read_shape(tiny_checkpoint)
    places = 11

    def counted(call: Any) -> float:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
        return float(counter.get_total_flops())

    pixels = torch.zeros(1, 3, shape.image_size, shape.image_size)
    assert counted(lambda: model.model.get_image_features(pixel_values=pixels)) == vision_operations(shape)
    seen = torch.zeros(1, places, shape.language.width)
    with torch.inference_mode():
        cache = model.model.language_model(inputs_embeds=seen, use_cache=True).past_key_values
    read = counted(lambda: model.model.language_model(inputs_embeds=seen))
    logits = 2 * shape.vocabulary * shape.language.width
    angle = shape.language.head_dim  # of a position: transformers takes rotary angles as a product of width / 2
    assert read - places * angle + logits == language_operations(shape, places, places)
    step = counted(lambda: model.model.language_model(inputs_embeds=seen[:, :1], past_key_values=cache))
    assert step - angle + logits == language_operations(shape, 1, places + 1)


def test_an_answer_reads_the_weights_once_a_call(tiny_checkpoint: Path) -> None:
    shape, plain = read_shape(tiny_checkpoint), choices()
    found = work(shape, plain, text_tokens=10, answer_tokens=3)
    known = estimate(shape, plain)
    visual = shape.visual_tokens
    assert visual == 4
    a_token = 2 * 2 * 1 * 32 * 4  # keys and values of two layers of one head of 32 numbers in f32
    language = found.prefill.bytes_read
    assert found.decode.bytes_read == 2 * language + (15 + 16) * a_token
    embeddings = 2 * 64 * 64
    assert found.vision.bytes_read + language + embeddings == pytest.approx(known.weight_bytes)
    assert found.prefill.operations == language_operations(shape, visual + 10, visual + 10)
    assert found.decode.operations == language_operations(shape, 1, 15) + language_operations(shape, 1, 16)
    assert (found.calls, found.vision.layers, found.decode.layers) == (4, 1, 4)
    half = work(shape, choices(visual_tokens={"keep": 0.5}), text_tokens=10, answer_tokens=3)
    assert half.vision == found.vision
    assert half.prefill.operations == language_operations(shape, 12, 12)


def test_exemplars_cost_what_the_runtime_computes_of_them(tiny_checkpoint: Path) -> None:
    shape = read_shape(tiny_checkpoint)
    none = work(shape, choices())
    fixed = work(shape, choices(prompt={"exemplars": 2, "exemplar_choice": "fixed"}))
    nearest = work(shape, choices(prompt={"exemplars": 2, "exemplar_choice": "nearest"}))
    assert fixed.vision == none.vision
    assert fixed.memory_bytes > none.memory_bytes
    assert none.prefill.operations < fixed.prefill.operations < nearest.prefill.operations
    assert nearest.vision.operations == 3 * none.vision.operations


def test_a_roof_is_the_slower_of_reading_and_computing() -> None:
    made, asked = profile(), some_work(1.0)
    unit = made.processors["cpu"]
    assert roof_ms(asked.vision, asked, unit, made) == pytest.approx(1e3 * 64e6 / 100e9)
    assert roof_ms(asked.decode, asked, unit, made) == pytest.approx(1e3 * 4e6 / 10e9)
    alone = replace(asked, threads=1)
    assert roof_ms(asked.vision, alone, unit, made) == pytest.approx(1e3 * 64e6 / 25e9)
    assert peak_of(Processor(peak={"f32": 8.0, "int8": None}), "bf16") == 16.0
    assert peak_of(Processor(peak={"f32": 8.0, "int8": 64.0}), "bf16") == 32.0
    assert peak_of(Processor(), "f32") is None


def brute_force(rows: Any, figures: Any) -> Any:
    """Non-negative least squares of the relative error: the best of the plain solutions of every support."""
    terms, wanted = np.asarray(rows) / np.asarray(figures)[:, None], np.ones(len(figures))
    best, error = np.zeros(terms.shape[1]), float(wanted @ wanted)
    for size in range(1, terms.shape[1] + 1):
        for support in map(list, itertools.combinations(range(terms.shape[1]), size)):
            solved = np.linalg.lstsq(terms[:, support], wanted, rcond=None)[0]
            found = float(((terms[:, support] @ solved - wanted) ** 2).sum())
            if (solved >= 0).all() and found < error - 1e-12:
                best, error = np.zeros(terms.shape[1]), found
                best[support] = solved
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_the_best_of_all_that_are_not_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.1, 3.0, (14, 4)) * [1, 1e3, 1e6, 1]
    figures = rows @ [2.0, 0.0, 1e-6, 0.4] * np.exp(rng.normal(0, 0.2, 14))
    fit = _fitted(rows.tolist(), figures.tolist())
    assert fit.coefficients == pytest.approx(brute_force(rows, figures), rel=1e-6, abs=1e-12)
    left_out = []
    for place in range(14):
        others = [row for row in range(14) if row != place]
        left_out.append(math.log(rows[place] @ brute_force(rows[others], figures[others]) / figures[place]))
    assert fit.half_log >= max(map(abs, left_out)) - 1e-9
    assert fit.half_log >= 1.96 * math.sqrt(np.mean(np.square(left_out)))


def anchors(rng: np.random.Generator, number: int, noise: float) -> list[Anchor]:
    """Bundles of a made-up device that is 1.5 to 3 times its roofs with 0.1 ms a layer, measured with noise."""
    made = profile()
    unit = made.processors["cpu"]
    found = []
    for _ in range(number):
        asked = some_work(math.exp(rng.uniform(0, 3)), rng.uniform(0.25, 1), int(rng.integers(2, 9)))
        phases = (asked.vision, asked.prefill, asked.decode)
        roofs = [roof_ms(phase, asked, unit, made) for phase in phases]
        true = 1.5 * roofs[0] + 2 * roofs[1] + 3 * roofs[2] + 0.1 * sum(phase.layers for phase in phases)
        memory = 1.1 * asked.memory_bytes + 1.5e8
        found.append(
            Anchor(
                work=asked,
                latency_ms=true * math.exp(rng.normal(0, noise)),
                memory_bytes=memory * math.exp(rng.normal(0, 0.01)),
            )
        )
    return found


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_intervals_cover_other_bundles_of_a_made_up_device(noise: float) -> None:
    rng = np.random.default_rng(1)
    covered, below, memory = [], [], []
    for _ in range(60):
        known = anchors(rng, 36, noise)
        calibration = calibrate(known[:16], profile(), "openvino")
        for one in known[16:]:
            found = predict(one.work, profile(), "openvino", calibration)
            assert found.latency_ms
            covered.append(found.latency_ms.low <= one.latency_ms <= found.latency_ms.high)
            below.append(one.latency_ms < found.latency_ms.low)
            memory.append(found.memory_bytes.low <= one.memory_bytes <= found.memory_bytes.high)
    assert np.mean(covered) >= 0.93
    assert np.mean(below) <= 0.035
    assert np.mean(memory) >= 0.93


def test_beyond_the_anchors_only_what_must_hold_is_said() -> None:
    known = anchors(np.random.default_rng(2), 16, 0.02)
    calibration = calibrate(known, profile(), "openvino")
    inside = predict(known[0].work, profile(), "openvino", calibration)
    assert inside.calibrated
    largest = max(known, key=lambda one: one.work.memory_bytes)
    far = predict(some_work(1e4), profile(), "openvino", calibration)
    edge = predict(largest.work, profile(), "openvino", calibration)
    plain = predict(some_work(1e4), profile(), "openvino")
    assert far.latency_ms
    assert edge.latency_ms
    assert plain.latency_ms
    assert not far.calibrated
    assert far.latency_ms.low >= edge.latency_ms.low
    assert far.latency_ms.high >= plain.latency_ms.high
    tiny = predict(some_work(1e-3, layers=1), profile(), "openvino", calibration)
    bare = predict(some_work(1e-3, layers=1), profile(), "openvino")
    assert tiny.latency_ms
    assert bare.latency_ms
    assert tiny.latency_ms.low == bare.latency_ms.low


def test_without_anchors_arithmetic_alone_bounds_from_below() -> None:
    asked = some_work(10.0)
    found = predict(asked, profile(), "openvino")
    assert found.latency_ms
    total = asked.vision.operations + asked.prefill.operations + asked.decode.operations
    assert found.latency_ms.low == pytest.approx(1e3 * total / 100e9)
    assert found.latency_ms.low < found.latency_ms.value < found.latency_ms.high
    assert found.memory_bytes.low == asked.memory_bytes
    for lacking in (profile(bandwidth=None), profile(f32=None)):
        assert predict(asked, lacking, "openvino").latency_ms is None


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(BadInput, match="9 anchors are too few"):
        calibrate(anchors(np.random.default_rng(4), 9, 0.05), profile(), "openvino")


def test_anchors_are_of_one_processor_and_say_nothing_of_another() -> None:
    known = anchors(np.random.default_rng(5), 12, 0.02)
    gpu = Processor(bandwidth=1e12, peak={"f32": 1e13}, runtimes=("torch",))
    both = profile().model_copy(update={"processors": {"gpu": gpu} | profile().processors})
    moved = [replace(one, work=replace(one.work, device="cuda")) for one in known]
    there = calibrate(moved, both, "torch")
    assert there.processor == "gpu"
    assert predict(moved[0].work, both, "torch", there).anchored
    assert not predict(known[0].work, both, "openvino", there).anchored
    here = replace(known[0], work=replace(known[0].work, device="cpu"))
    with pytest.raises(BadInput, match="ran on gpu and cpu"):
        calibrate([*moved, here], both, "torch")
