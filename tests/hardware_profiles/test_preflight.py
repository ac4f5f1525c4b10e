import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino as ov
import pytest
from openvino import PartialShape, Type
from openvino import opset13 as ops

from hardware_profiles.bundle import Bundle, seal
from hardware_profiles.preflight import _cuda, asked_of, preflight
from hardware_profiles.wire import Preflight, parse
from spaces.errors import BadInput

Sealed = Callable[..., Bundle]
VISION = "openvino_vision_embeddings_model"


def resealed(bundle: Bundle, runtime: str = "openvino") -> Bundle:
    """The bundle with its files as they are now."""
    return seal(
        bundle.folder,
        runtime=runtime,
        prompt=bundle.manifest.prompt,
        max_new_tokens=8,
        execution=bundle.manifest.execution,
        candidate={},
        provenance={},
    )


def unranked(bundle: Bundle) -> Bundle:
    """The vision graph becomes one whose ranks nobody knows: OpenVINO's CPU plugin takes no operation of that kind."""
    image = ops.parameter(PartialShape.dynamic(), Type.f32, name="pixel_values")
    gelu = ops.gelu(image, "erf")
    gelu.set_friendly_name("of_no_rank")
    relu = ops.relu(gelu)
    relu.set_friendly_name("nor_this")
    (bundle.folder / f"{VISION}.bin").unlink()
    ov.save_model(ov.Model([relu], [image]), bundle.folder / f"{VISION}.xml")
    return resealed(bundle)


REFUSED = {f"{VISION}: Gelu of_no_rank", f"{VISION}: Relu nor_this"}


def test_a_bundle_that_fits_has_nothing_against_it(sealed: Sealed) -> None:
    found = preflight(sealed().folder)
    assert found.device == "CPU"
    assert found.operations > 100
    assert found.fallback == {}
    assert found.reasons == ()


def test_an_operation_that_the_plugin_refuses_is_named(sealed: Sealed) -> None:
    bundle = sealed()
    plain = preflight(bundle.folder).operations
    found = preflight(unranked(bundle).folder)
    assert set(found.fallback) == REFUSED
    assert set(found.fallback.values()) == {"CPU does not take it, and nothing else here does"}
    assert found.operations < plain
    assert found.reasons == (f"2 of {found.operations} operations cannot run on CPU",)


def test_where_another_device_may_take_it_it_only_falls_back(sealed: Sealed) -> None:
    """The CPU plugin once more under another name stands for an accelerator: OpenVINO has no mock in its wheels."""
    core = ov.Core()
    core.register_plugin("openvino_intel_cpu_plugin", "CPUTWIN")
    bundle = sealed()
    found = asked_of(core, bundle, "HETERO:CPUTWIN,CPU")
    assert (found.fallback, found.reasons) == ({}, ())
    assert found.operations == asked_of(core, bundle, "CPU").operations
    found = asked_of(core, unranked(bundle), "HETERO:CPUTWIN,CPU")
    assert set(found.fallback) == REFUSED
    assert all(why.startswith("CPUTWIN does not take it") for why in found.fallback.values())
    assert found.reasons == ()


class Placing:
    """A core that places every operation of a kind elsewhere, as HETERO does with a real accelerator."""

    def __init__(self, kind: str) -> None:
        self._core, self._kind = ov.Core(), kind

    def get_property(self, device: str, name: str) -> list[str]:
        return ["FP32", "FP16"]

    def read_model(self, path: Path) -> Any:
        return self._core.read_model(path)

    def query_model(self, model: Any, device: str) -> dict[str, str]:
        return {
            node.get_friendly_name(): "CPU" if node.get_type_name() == self._kind else "GPU"
            for node in model.get_ordered_ops()
        }


def test_what_hetero_places_elsewhere_is_a_fallback(sealed: Sealed) -> None:
    found = asked_of(Placing("MatMul"), sealed(inference_precision="bf16"), "HETERO:GPU,CPU")
    assert found.fallback
    assert all(": MatMul " in name for name in found.fallback)
    assert set(found.fallback.values()) == {"GPU does not take it, CPU would"}
    assert found.reasons == ("bf16 is pinned, and GPU computes f32, f16 natively",)


def test_a_graph_with_unknown_operations_cannot_run(sealed: Sealed) -> None:
    bundle = sealed()
    path = bundle.folder / f"{VISION}.xml"
    text = path.read_text()
    assert 'type="MatMul" version="opset1"' in text
    path.write_text(text.replace('type="MatMul" version="opset1"', 'type="Wished" version="own_opset"', 1))
    resealed(bundle)
    found = preflight(bundle.folder)
    assert any(VISION in reason and "Wished" in reason and "own_opset" in reason for reason in found.reasons)


def test_what_the_machine_lacks_is_named(sealed: Sealed) -> None:
    found = preflight(sealed(threads=512).folder, "GPU.7")
    assert any(reason.startswith("GPU.7 cannot be used: ") for reason in found.reasons)
    assert any(reason.startswith("512 threads are pinned") for reason in found.reasons)
    assert found.operations == 0


def test_a_machine_too_small_is_named(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = sealed()
    weights = sum(path.stat().st_size for path in bundle.folder.glob("*.bin"))
    monkeypatch.setattr("hardware_profiles.agent.proc.memory_total_bytes", lambda: weights - 1)
    assert preflight(bundle.folder).reasons == (f"its weights are {weights} bytes, and the machine has {weights - 1}",)


def test_a_runtime_that_cannot_say_says_so(sealed: Sealed) -> None:
    found = preflight(sealed(runtime="torch").folder)
    assert "torch cannot say" in found.device
    assert (found.operations, found.fallback, found.reasons) == (0, {}, ())
    unknown = preflight(sealed("server", server="llama").folder)
    assert unknown.device == "runtime server, which cannot say"


def test_a_missing_runtime_is_named(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = sealed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert preflight(bundle.folder).reasons == ("openvino is not installed",)


@pytest.mark.parametrize(
    ("capability", "built_for", "precision", "words"),
    [
        ((8, 7), ["sm_80", "sm_90"], "bf16", ()),  # Orin: a cubin for 8.0 runs on 8.7
        ((8, 7), ["sm_90"], "f32", ("built for sm_90, and the GPU is of capability 8.7",)),
        ((9, 0), ["sm_80", "compute_80"], "f32", ()),
        ((7, 5), ["sm_75"], "bf16", ("bf16 is pinned, and a GPU of capability 7.5",)),
        ((10, 0), [], "f32", ("built for no GPU",)),
    ],
)
def test_a_gpu_needs_kernels_and_arithmetic(
    capability: tuple[int, int], built_for: list[str], precision: str, words: tuple[str, ...]
) -> None:
    found = tuple(_cuda(capability, built_for, precision))
    assert len(found) == len(words)
    assert all(word in reason for word, reason in zip(words, found, strict=True))


def test_the_command_prints_one_line(sealed: Sealed, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-m", "hardware_profiles.preflight"]
    folder = sealed().folder
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert parse(Preflight, done.stdout.encode()) == preflight(folder)
    assert json.loads(done.stdout)["reasons"] == []
    refused = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is no bundle" in refused.stderr
    with pytest.raises(BadInput):
        preflight(tmp_path / "none")


def test_a_torch_bundle_is_looked_at_where_it_is_pinned(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert preflight(sealed("torch", device="cuda").folder).reasons == ("torch sees no CUDA device",)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    bundle = sealed("openvino")
    found = preflight(resealed(bundle, "torch").folder)
    assert found.device.startswith("cpu;")
    assert found.reasons == ()
