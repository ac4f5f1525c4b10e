import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.axes.checkpoint import load_strict
from spaces.axes.runtime import AXIS
from spaces.errors import StageFailed
from tests.spaces.axes.conftest import Apply, contents, genai_answers

QUESTIONS = ["what is this ?", "what colour is this ?", "is this red ?", "what shape is this ball ?"] * 2


def _torch_answers(folder: Path, images: list[Path], questions: list[str]) -> list[str]:
    import torch
    from transformers import AutoTokenizer

    model = load_strict(folder)
    words = AutoTokenizer.from_pretrained(folder)
    answers = []
    for path, question in zip(images, questions, strict=True):
        text = f"<bos>user : {'<image>' * 4}\n{question} assistant :"
        ids = words(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        pixels = torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=6, do_sample=False
        )
        answers.append(words.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


@pytest.mark.filterwarnings("ignore")
def test_the_export_answers_like_its_torch_source(
    tiny_checkpoint: Path, exported: Path, tiny_images: list[Path]
) -> None:
    expected = _torch_answers(tiny_checkpoint, tiny_images, QUESTIONS)
    assert len(set(expected)) > 1
    assert [text for text, _ in genai_answers(exported, tiny_images, QUESTIONS)] == expected


def test_the_export_holds_graphs_and_json_only(exported: Path) -> None:
    graphs = ["language_model", "text_embeddings_model", "vision_embeddings_model", "tokenizer", "detokenizer"]
    assert {path.name for path in exported.iterdir()} == {
        *(f"openvino_{graph}.{ending}" for graph in graphs for ending in ("xml", "bin")),
        *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


def test_a_second_export_has_the_same_bytes(tiny_checkpoint: Path, exported: Path, apply: Apply) -> None:
    assert contents(apply(AXIS, tiny_checkpoint)) == contents(exported)


def test_a_tokenizer_that_openvino_reads_otherwise_is_refused(
    tiny_checkpoint: Path, apply: Apply, tmp_path: Path
) -> None:
    """OpenVINO's form of a split at white space also splits at punctuation: a word that ends in a colon is lost."""
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    content = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(content.replace('"user":', '"user:":'))
    words = (source / "tokenizer_config.json").read_text()
    (source / "tokenizer_config.json").write_text(words.replace("user : ", "user: "))
    with pytest.raises(StageFailed, match="other tokens"):
        apply(AXIS, source)


def test_a_chat_template_for_lists_of_parts_is_refused(tiny_checkpoint: Path, apply: Apply, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    words = json.loads((source / "tokenizer_config.json").read_text())
    words["chat_template"] = (
        "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    (source / "tokenizer_config.json").write_text(json.dumps(words))
    with pytest.raises(StageFailed, match="text-only template"):
        apply(AXIS, source)


@pytest.mark.parametrize("name", ["torch", "server"])
def test_torch_and_servers_get_the_checkpoint_as_it_is(tiny_checkpoint: Path, apply: Apply, name: str) -> None:
    assert contents(apply(AXIS, tiny_checkpoint, name=name)) == contents(tiny_checkpoint)


def test_execution_settings_do_not_reach_the_artifact() -> None:
    bound = {knob for knob, domain in AXIS.domains.items() if domain.bound}
    assert bound == {"server", "device", "threads", "inference_precision", "kv_cache_precision"}


def test_an_export_and_a_compression_are_silent_and_call_nobody(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own: an attempt to connect ends it, and nothing may be printed or put in the home."""
    for name in ("export", "int8", "home"):
        (tmp_path / name).mkdir()
    code = """
import socket, sys
def refuse(*_, **__): raise SystemExit("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from spaces.axes import quantization, runtime
checkpoint, export, int8 = map(Path, sys.argv[1:])
runtime.AXIS.apply({"name": "openvino"}, checkpoint, export, {}, 0)
choice = {knob: domain.default for knob, domain in quantization.AXIS.domains.items()} | {"weights": "int8"}
quantization.AXIS.apply(choice, export, int8, {}, 0)
from openvino_telemetry import Telemetry
sys.exit("telemetry is on" if Telemetry(app_name="x", tid="y", backend="ga4").consent else 0)
"""
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    folders = [str(folder) for folder in (tiny_checkpoint, tmp_path / "export", tmp_path / "int8")]
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "home" / "intel").exists()


def test_the_export_holds_the_checkpoints_numbers_to_the_bit(tiny_checkpoint: Path, exported: Path) -> None:
    import openvino
    from safetensors.numpy import load_file

    held: set[tuple[tuple[int, ...], bytes]] = set()
    for graph in ("openvino_language_model", "openvino_text_embeddings_model", "openvino_vision_embeddings_model"):
        for node in openvino.Core().read_model(exported / f"{graph}.xml").get_ops():
            if node.get_type_name() == "Constant" and node.data.dtype in (np.float16, np.float32):
                values = np.squeeze(node.data).astype(np.float32)
                held.add((values.shape, values.tobytes()))
    for name, weight in load_file(tiny_checkpoint / "model.safetensors").items():
        if weight.ndim != 2:
            continue
        values = weight.astype(np.float32)
        forms = (values, values.T)
        assert any((form.shape, np.ascontiguousarray(form).tobytes()) in held for form in forms), name
    frequencies = 10_000.0 ** (-np.arange(0, 32, 2) / np.float32(32))
    close = [np.frombuffer(content, np.float32) for shape, content in held if shape == (16,)]
    assert any(np.allclose(values, frequencies, rtol=1e-6, atol=0) for values in close)
