"""Pruned models against their sources with the parts zeroed that NumPy finds weakest."""

import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spaces.axes import Samples
from spaces.axes.checkpoint import load_strict
from spaces.axes.pruning import AXIS, SHARES
from tests.spaces.axes.conftest import Apply
from tests.spaces.axes.variants import logits, run, write_variant

TEXT, VISION = "model.language_model.model", "model.vision_tower.vision_model.encoder"
LEFT = {  # the share removed; groups of heads, and what is left: FFN width, groups, layers that are read
    "siglip-llama": (0.5, {TEXT: (4, 128, 2, 2), VISION: (4, 64, 2, 1)}),
    "clip-qwen2": (0.4, {TEXT: (5, 128, 3, 2), VISION: (4, 128, 2, 1)}),
}


def _activations(folder: Path, samples: Samples) -> tuple[dict[str, Any], dict[str, float]]:
    """Inputs of output projections, (token, channel), by name; and the mean cosine of each layer's input and output."""
    model = load_strict(folder)
    inputs: dict[str, list[Any]] = defaultdict(list)
    cosines: dict[str, list[Any]] = defaultdict(list)

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            inputs[name].append(given[0].double().numpy().reshape(-1, given[0].shape[-1]))

        return hook

    def compare(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            before, after = (
                one.double().numpy() for one in (given[0], output[0] if isinstance(output, tuple) else output)
            )
            norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
            cosines[name].extend(((before * after).sum(-1) / norms).ravel())

        return hook

    for name, module in model.named_modules():
        name = _stored(name)
        if name.endswith(("o_proj", "out_proj", "down_proj", "fc2")):
            module.register_forward_hook(watch(name))
        if name.rpartition(".layers.")[2].isdigit():
            module.register_forward_hook(compare(name))
    for sample in samples["calibration"]:
        run(model, folder, sample.image, sample.answers[0])
    return {name: np.concatenate(rows) for name, rows in inputs.items()}, {
        name: float(np.mean(found)) for name, found in cosines.items()
    }


def _stored(name: str) -> str:
    """The name that the file has for a module of the loaded model."""
    return name.replace("model.language_model.", f"{TEXT}.")


def _weakest(scores: Any, kept: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[kept:]


def _zeroed(folder: Path, target: Path, kind: str, samples: Samples | None) -> Path:
    """The checkpoint with what has the least importance set to zero: by weights, or by activations on samples."""
    weights = {name: one.astype(np.float64) for name, one in load_file(folder / "model.safetensors").items()}
    written = dict(weights)
    seen, cosines = _activations(folder, samples) if samples else ({}, {})
    for part, (units, width, groups, left) in LEFT[kind][1].items():
        out, down, into = (
            ("o_proj", "down_proj", ("gate_proj", "up_proj")) if part == TEXT else ("out_proj", "fc2", ("fc1",))
        )
        count = len({name.split(".layers.")[1].split(".")[0] for name in weights if name.startswith(f"{part}.layers.")})
        strength = []
        for layer in range(count):
            prefix = f"{part}.layers.{layer}"
            o, d, v = (
                weights[f"{prefix}.{name}.weight"] for name in (f"self_attn.{out}", f"mlp.{down}", "self_attn.v_proj")
            )
            o_units, v_units = np.split(o, units, axis=1), np.split(v, units, axis=0)
            if samples:
                x_units = np.split(seen[f"{prefix}.self_attn.{out}"], units, axis=1)
                attention = [(abs(a) * np.linalg.norm(x, axis=0)).sum() for a, x in zip(o_units, x_units, strict=True)]
                channels = (abs(d) * np.linalg.norm(seen[f"{prefix}.mlp.{down}"], axis=0)).sum(axis=0)
                strength.append(1 - cosines[prefix])
            else:
                attention = [np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(o_units, v_units, strict=True)]
                channels = np.linalg.norm(d, axis=0)
                for name in into:
                    channels = channels * np.linalg.norm(weights[f"{prefix}.mlp.{name}.weight"], axis=1)
                strength.append(np.sqrt((o**2).sum() + (d**2).sum()))
            o, d = o.copy(), d.copy()
            for unit in _weakest(attention, groups):
                np.split(o, units, axis=1)[unit][:] = 0
            d[:, _weakest(channels, width)] = 0
            written |= {f"{prefix}.self_attn.{out}.weight": o, f"{prefix}.mlp.{down}.weight": d}
        used = count if part == TEXT else 2
        for layer in _weakest(strength[:used], left):
            for name in (f"self_attn.{out}", f"mlp.{down}"):
                for ending in ("weight", "bias"):
                    whole = f"{part}.layers.{layer}.{name}.{ending}"
                    if whole in written:
                        written[whole] = written[whole] * 0
    shutil.copytree(folder, target)
    save_file({name: one.astype(np.float16) for name, one in written.items()}, target / "model.safetensors")
    return target


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("importance", ["weights", "activations"])
@pytest.mark.parametrize("kind", sorted(LEFT))
def test_pruned_models_equal_their_source_with_the_weakest_parts_zeroed(
    kind: str,
    importance: str,
    tiny_checkpoint: Path,
    tiny_images: list[Path],
    tmp_path: Path,
    apply: Apply,
    axis_samples: Samples,
) -> None:
    source = write_variant(tmp_path / "source", tiny_checkpoint, kind)
    reference = _zeroed(source, tmp_path / "zeroed", kind, axis_samples if importance == "activations" else None)
    pruned = apply(AXIS, source, importance=importance, **dict.fromkeys(SHARES, LEFT[kind][0]))
    expected = logits(reference, tiny_images[:3])
    assert np.abs(expected - logits(source, tiny_images[:3])).max() > 0.1
    assert np.allclose(logits(pruned, tiny_images[:3]), expected, atol=2e-4)
    again = apply(AXIS, source, "again", importance=importance, **dict.fromkeys(SHARES, LEFT[kind][0]))
    assert (again / "model.safetensors").read_bytes() == (pruned / "model.safetensors").read_bytes()
    assert (again / "config.json").read_bytes() == (pruned / "config.json").read_bytes()
