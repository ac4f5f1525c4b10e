"""Case 24: host and agent that do not fit, or a bundle that the device cannot run: said at hello or preflight."""

from importlib.metadata import version
from pathlib import Path

import pytest

from hardware_profiles.bundle import Bundle, Execution, seal
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import PROTOCOLS
from spaces.errors import BadInput
from spaces.prompting import Prompt
from tests.faults.agent_bench import NEVER, Start, questions, sealed

FILES = {"config.json": b"{}"}
NAMES = {"FP16": "f16", "BF16": "bf16"}


@pytest.mark.parametrize(("theirs", "said"), [((2, 3), "2 to 3"), ((7, 7), "7"), ((0, 0), "0")])
def test_case_24_another_protocol_is_refused_at_hello(start: Start, theirs: tuple[int, int], said: str) -> None:
    agent = start(settings={"protocols": theirs, "versions": {"vlmfront": "9.8.7"}})
    with pytest.raises(BadInput) as refused:
        agent.open()
    ours = version("vlmfront")
    assert str(refused.value).startswith(
        f"bench speaks protocol {said} (vlmfront 9.8.7), this host {PROTOCOLS[0]} (vlmfront {ours});"
    )
    assert not list((agent.state / "jobs").iterdir())


def test_case_24_ranges_that_meet_are_enough(start: Start, tmp_path: Path) -> None:
    device = start(settings={"protocols": (0, 2)}).open()
    assert device.hello.protocols == (0, 2)
    folder = sealed(tmp_path / "bundle", FILES)
    assert len(device.answer(folder, questions(tmp_path), cancel=NEVER).answers) == 3


def test_case_24_a_runtime_that_is_missing_or_too_old(start: Start, tmp_path: Path) -> None:
    """Before a byte of the bundle travels."""
    folder, ours = sealed(tmp_path / "bundle", FILES), version("openvino-genai")
    for there, said in (("", "bench has torch 9.9"), ("2023.1", f"bench has openvino 2023.1, older than the {ours}")):
        agent = start(settings={"versions": {"openvino-genai": there, "torch": "9.9"}})
        device = agent.open()
        with pytest.raises(JobFailed) as refused:
            device.answer(folder, questions(tmp_path), cancel=NEVER)
        assert refused.value.fault == "INVALID_INPUT"
        assert said in refused.value.reason
        assert not agent.blobs()
        agent.opened.close()
        agent.process.terminate()
        agent.process.wait(20)


def test_case_24_a_newer_runtime_is_taken(start: Start, tmp_path: Path) -> None:
    device = start(settings={"versions": {"openvino-genai": "9999.1"}}).open()
    folder = sealed(tmp_path / "bundle", FILES)
    assert len(device.answer(folder, questions(tmp_path), cancel=NEVER).answers) == 3


def test_case_24_a_runtime_that_goes_after_hello_is_named_by_the_runner(start: Start, tmp_path: Path) -> None:
    """Nobody checked before, as with a plug-in of the host's that the device lacks: the job itself says so."""
    agent, folder = start(code=None), tmp_path / "bundle"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    pins, prompt = Execution(), Prompt()
    seal(folder, runtime="other", prompt=prompt, max_new_tokens=8, execution=pins, candidate={}, provenance={})
    device, asked = agent.open(), questions(tmp_path)
    with pytest.raises(JobFailed, match="needs the runtime 'other'; bench has openvino"):
        device.answer(folder, asked, cancel=NEVER)
    vars(device.hello)["runtimes"]["other"] = "1.0"
    with pytest.raises(JobFailed, match="'other'") as refused:
        device.answer(folder, asked, cancel=NEVER)
    assert refused.value.fault == "INVALID_INPUT"


def test_case_24_a_precision_that_the_device_does_not_compute(
    start: Start, tiny_openvino: Path, tmp_path: Path
) -> None:
    import openvino as ov

    able = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    bundles = {name: _pinned(tiny_openvino, tmp_path / name, name) for name in ("f32", *NAMES.values())}
    device = start(code=None).open()
    for name, bundle in bundles.items():
        found = device.preflight(bundle.folder, cancel=NEVER)
        lacking = name in {dtype for kind, dtype in NAMES.items() if kind not in able}
        computed = "f32" + "".join(f", {NAMES[kind]}" for kind in ("FP16", "BF16") if kind in able)
        assert found.operations > 0
        assert found.reasons == ((f"{name} is pinned, and CPU computes {computed} natively",) if lacking else ())


def test_case_24_an_accelerator_that_the_device_does_not_have(
    start: Start, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    bundle = _pinned(tiny_checkpoint, tmp_path / "bundle", "f32", runtime="torch", device="cuda")
    found = start(code=None).open().preflight(bundle.folder, cancel=NEVER)
    assert found.reasons == (() if torch.cuda.is_available() else ("torch sees no CUDA device",))


def _pinned(source: Path, folder: Path, precision: str, runtime: str = "openvino", device: str = "cpu") -> Bundle:
    import shutil

    shutil.copytree(source, folder)
    return seal(
        folder,
        runtime=runtime,
        prompt=Prompt(),
        max_new_tokens=8,
        execution=Execution(inference_precision=precision, device=device),
        candidate={},
        provenance={},
    )
