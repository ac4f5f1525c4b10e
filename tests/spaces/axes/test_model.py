import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spaces.axes.model import AXIS, check_model_folder, weight_files
from spaces.errors import BadInput


@pytest.fixture
def copied(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    return folder


def test_links_what_a_load_needs_and_no_more(copied: Path, tmp_path: Path) -> None:
    (copied / "README.md").write_text("a card")
    target = tmp_path / "target"
    target.mkdir()
    AXIS.apply({"path": "model"}, tmp_path, target, {}, 0)
    assert {path.name for path in target.iterdir()} == {path.name for path in copied.iterdir()} - {"README.md"}
    assert (target / "model.safetensors").read_bytes() == (copied / "model.safetensors").read_bytes()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        check_model_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BadInput, match=f"has no {name}"):
        check_model_folder(copied)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "deep/er/adapter.pt", "x.CKPT", "modeling.py"])
def test_a_pickle_or_code_anywhere_is_named(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"")
    with pytest.raises(BadInput, match=Path(name).name):
        check_model_folder(copied)


def _huge_header(weights: bytes) -> bytes:
    return struct.pack("<Q", 1 << 63) + weights[8:]


def _overlapping(weights: bytes) -> bytes:
    size = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + weights[8 + size :]


@pytest.mark.parametrize(
    "damage", [_huge_header, _overlapping, lambda weights: b"PK\x03\x04 zipped pickle", lambda weights: weights[:-1]]
)
def test_weights_with_a_bad_header_are_refused(copied: Path, damage: Callable[[bytes], bytes]) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=r"model\.safetensors is no valid"):
        check_model_folder(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_remote_code_is_refused(copied: Path, name: str) -> None:
    file = copied / name
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(BadInput, match=f"{name}: auto_map"):
        check_model_folder(copied)


def test_another_model_type_is_refused(copied: Path) -> None:
    file = copied / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "qwen2_vl"}))
    with pytest.raises(BadInput, match="'qwen2_vl'"):
        check_model_folder(copied)


def test_every_shard_of_an_index_must_be_there(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "a.safetensors")
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    assert weight_files(copied) == (index.name, "a.safetensors")
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(BadInput, match=r"lacks the shard b\.safetensors"):
        check_model_folder(copied)
    index.write_text(json.dumps({"weight_map": {"x": "../model/a.safetensors"}}))
    with pytest.raises(BadInput, match="same folder"):
        check_model_folder(copied)


def test_axes_and_the_check_load_no_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import spaces.plugins as plugins;"
        f"plugins.model.check_model_folder(Path({str(tiny_checkpoint)!r}));"
        "sys.exit(', '.join({'torch', 'transformers', 'openvino', 'nncf', 'peft'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
