"""Case 22: files that are not what their names say are refused by host and agent, before anything loads them."""

import pickle
from pathlib import Path

import pytest

from hardware_profiles.messages import JobFailed
from spaces.errors import BadInput
from tests.faults.agent_bench import NEVER, Start, packed, questions, sealed
from tests.hardware_profiles.agent.test_headers import GRAPHS, TENSORS, entry, gguf, tensors


class Loaded:
    """What leaves a mark when somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._mark,)


def lies(mark: Path) -> dict[str, dict[str, bytes]]:
    """By name, the files of a bundle of which one lies; that one comes first."""
    weights = {"a": entry("U8", [4], 0, 4)}
    found = {
        "a pickle": pickle.dumps(Loaded(mark)),
        "a pickle behind a length": (200).to_bytes(8, "little") + pickle.dumps(Loaded(mark)).ljust(300, b"\0"),
        "a zip, as torch saves": b"PK\x03\x04" + bytes(500),
        "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + tensors(weights, b"xxxx")[8:],
        "a header of 2^64 - 1 bytes": b"\xff" * 8 + tensors(weights, b"xxxx")[8:],
        "overlapping offsets": tensors({**weights, "b": entry("U8", [4], 2, 6)}, b"x" * 6),
        **TENSORS,
    }
    files = {name: {"model.safetensors": content} for name, content in found.items()}
    for name, text in GRAPHS.items():
        files[f"graph: {name}"] = {"model.xml": text.encode(), "model.bin": bytes(100)}
    files["gguf: counts that overflow"] = {"model.gguf": gguf((1 << 64) - 1, (1 << 63) + 1)}
    files["gguf: another magic number"] = {"model.gguf": gguf(1, 2, magic=b"GGML")}
    files["code of its own"] = {"config.json": b'{"auto_map": {"AutoModel": "evil.Model"}}'}
    files["Python"] = {"model.py": b"import os"}
    files["a shared object"] = {"model.so": b"\x7fELF"}
    files["a graph's weights alone"] = {"pytorch_model.bin": pickle.dumps(Loaded(mark))}
    return files


def test_case_22_lying_files_are_refused_before_anything_loads_them(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, mark = start(), tmp_path / "loaded"
    device, asked = agent.open(), questions(tmp_path)
    for number, (name, files) in enumerate(lies(mark).items()):
        with monkeypatch.context() as trusting:
            trusting.setattr("hardware_profiles.bundle._check_kind", lambda *_: None)  # a host that looks at nothing
            folder = sealed(tmp_path / str(number), files)
            job = packed(folder, asked)
        with pytest.raises(JobFailed, match=next(iter(files)).replace(".", r"\.")) as refused:
            device._submit(job, device._patience(NEVER))
        assert refused.value.fault == "INVALID_INPUT", name
        with pytest.raises(BadInput, match=next(iter(files)).replace(".", r"\.")):
            device.answer(folder, asked, cancel=NEVER)
    assert not mark.exists()
    assert agent.executions() == 0
    assert not list((agent.state / "jobs").iterdir())
    honest = sealed(tmp_path / "honest", {"model.safetensors": tensors({"a": entry("U8", [4], 0, 4)}, b"xxxx")})
    assert len(device.answer(honest, asked, cancel=NEVER).answers) == len(asked)


def test_case_22_the_mark_is_left_by_whoever_unpickles(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Loaded(tmp_path / "loaded")))  # noqa: S301
    assert (tmp_path / "loaded").exists()
