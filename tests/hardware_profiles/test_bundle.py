import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware_profiles.bundle import (
    MANIFEST,
    MOST_FILES,
    MOST_FOLDERS,
    SCHEMA,
    Bundle,
    Execution,
    open_bundle,
    parse_manifest,
    seal,
    served,
)
from hardware_profiles.headers import MOST_JSON
from spaces.errors import BadInput
from spaces.prompting import Prompt, render


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "sub").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "model.xml").write_text("<net/>")
    (made / "model.bin").write_bytes(b"\0" * 100)
    (made / "sub" / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return made


def sealed(folder: Path, **changes: Any) -> Bundle:
    pins: dict[str, Any] = {
        "runtime": "openvino",
        "prompt": Prompt(),
        "max_new_tokens": 8,
        "execution": Execution(),
        "candidate": {"quantization.weights": "int4"},
        "provenance": {"stages": ["a"]},
    }
    return seal(folder, **(pins | changes))


def list_again(folder: Path, name: str) -> None:
    edit(folder, lambda body: body["files"].update({name: body["files"]["config.json"]}))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_what_was_sealed_is_what_is_opened(folder: Path) -> None:
    made = sealed(folder)
    assert open_bundle(folder) == made
    assert made.size_bytes == 2 + 6 + 100 + 10
    body = json.loads((folder / "manifest.json").read_text())
    assert body["schema"] == "vlmfront.bundle/1"
    assert body["files"]["model.bin"] == {"sha256": hashlib.sha256(b"\0" * 100).hexdigest(), "size": 100}
    assert set(body["files"]) == {"config.json", "model.xml", "model.bin", "sub/weights.safetensors"}


def test_sealing_again_replaces_the_manifest_and_leaves_nothing_else(folder: Path) -> None:
    sealed(folder)
    assert sealed(folder, measured={"accuracy": 0.5}).manifest.measured == {"accuracy": 0.5}
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.bin",
        "model.xml",
        "sub",
    ]


def test_a_bundle_opens_wherever_it_is_copied(folder: Path, tmp_path: Path) -> None:
    sealed(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert open_bundle(tmp_path / "elsewhere").manifest == open_bundle(folder).manifest


TAMPER: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
    "no JSON": (lambda f: (f / "manifest.json").write_text("{"), "is not JSON"),
    "schema": (lambda f: edit(f, lambda m: m.update(schema="vlmfront.bundle/9")), "vlmfront.bundle/9"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "schema None"),
    "field missing": (lambda f: edit(f, lambda m: m.pop("prompt")), "'prompt'"),
    "unknown setting": (lambda f: edit(f, lambda m: m["execution"].update(turbo=1)), "turbo"),
    "threads": (lambda f: edit(f, lambda m: m["execution"].update(threads=0)), "execution.threads"),
    "template": (lambda f: edit(f, lambda m: m["prompt"].update(template="no place")), "prompt.template"),
    "template a number": (lambda f: edit(f, lambda m: m["prompt"].update(template=5)), "prompt.template"),
    "hint no text": (lambda f: edit(f, lambda m: m["prompt"].update(hints={"a": 1})), "prompt.hints"),
    "hint field": (lambda f: edit(f, lambda m: m["prompt"].update(hint_field=[])), "prompt.hint_field"),
    "exemplars no number": (lambda f: edit(f, lambda m: m["prompt"].update(exemplars="2")), "prompt.exemplars"),
    "too many exemplars": (lambda f: edit(f, lambda m: m["prompt"].update(exemplars=9)), "prompt.exemplars"),
    "exemplars without a pool": (lambda f: edit(f, lambda m: m["prompt"].update(exemplars=2)), "prompt.exemplars"),
    "choice": (lambda f: edit(f, lambda m: m["prompt"].update(exemplar_choice="best")), "prompt.exemplar_choice"),
    "order": (lambda f: edit(f, lambda m: m["prompt"].update(exemplar_order=["forward"])), "prompt.exemplar_order"),
    "exemplar field": (lambda f: edit(f, lambda m: m["prompt"].update(exemplar_field=3)), "prompt.exemplar_field"),
    "answers without end": (lambda f: edit(f, lambda m: m.update(max_new_tokens=4097)), "max_new_tokens"),
    "runtime": (lambda f: edit(f, lambda m: m.update(runtime=None)), "runtime"),
    "huge number": (lambda f: (f / "manifest.json").write_text("[" + "9" * 5000 + "]"), "is not JSON"),
    "deep": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is not JSON"),
    "file missing": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "file longer": (lambda f: (f / "config.json").write_text("{ }"), "config.json is not the file"),
    "same length": (lambda f: (f / "model.bin").write_bytes(b"\1" * 100), "model.bin is not the file"),
    "file extra": (lambda f: (f / "more.json").write_text("{}"), "more.json is not in the manifest"),
    "parent path": (
        lambda f: list_again(f, "../x.json"),
        "'../x.json'",
    ),
    "absolute": (lambda f: list_again(f, "/x.json"), "'/x.json'"),
    "dotted": (lambda f: list_again(f, "./x.json"), "'./x.json'"),
    "case": (lambda f: list_again(f, "CONFIG.json"), "case only"),
    "link": (lambda f: (f / "link.json").symlink_to(f / "config.json"), "symbolic link"),
    "linked folder": (lambda f: (f / "linked").symlink_to(f / "sub"), "symbolic link"),
}


@pytest.mark.parametrize("case", TAMPER)
def test_a_tampered_bundle_is_refused(folder: Path, case: str) -> None:
    sealed(folder)
    tamper, words = TAMPER[case]
    tamper(folder)
    with pytest.raises(BadInput) as refused:
        open_bundle(folder)
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
FIELDS = [
    *((name,) for name in ("runtime", "files", "prompt", "max_new_tokens", "execution", "candidate", "measured")),
    *(("prompt", name) for name in ("template", "hint_field", "hints", "exemplars", "exemplar_choice", "more")),
    *(("execution", name) for name in ("threads", "inference_precision", "kv_cache_precision", "dynamic_quantization")),
    *(("files", "config.json", name) for name in ("sha256", "size")),
    ("files", "config.json"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(field=st.sampled_from(FIELDS), value=JUNK)
def test_any_value_of_any_field_is_taken_or_refused_in_one_sentence(
    folder: Path, field: tuple[str, ...], value: Any
) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    body: dict[str, Any] = {"schema": "vlmfront.bundle/1", **asdict(sealed(folder).manifest)}
    inner = body
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(body))
    with contextlib.suppress(BadInput):
        prompt = open_bundle(folder).manifest.prompt
        render(prompt, "what ?", {prompt.hint_field: "x"})


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_config_that_names_code_is_neither_sealed_nor_opened(folder: Path, name: str) -> None:
    code = json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}).encode()
    (folder / name).write_text("{}")
    sealed(folder)
    (folder / name).write_bytes(code)
    with pytest.raises(BadInput, match="auto_map"):
        sealed(folder)
    entry = {"sha256": hashlib.sha256(code).hexdigest(), "size": len(code)}
    edit(folder, lambda body: body["files"].update({name: entry}))
    with pytest.raises(BadInput, match=rf"{name} names code of its own \(auto_map\)"):
        open_bundle(folder)


def test_a_config_that_takes_too_much_memory_is_not_read(folder: Path) -> None:
    (folder / "config.json").write_text("[" + "[]," * (MOST_JSON // 3) + "[]]")
    with pytest.raises(BadInput, match=rf"config.json is larger than {MOST_JSON} bytes"):
        sealed(folder)


def test_without_verification_names_and_sizes_still_count(folder: Path) -> None:
    sealed(folder)
    (folder / "model.bin").write_bytes(b"\1" * 100)
    open_bundle(folder, verify=False)
    (folder / "model.bin").write_bytes(b"\1" * 101)
    with pytest.raises(BadInput, match="not the file"):
        open_bundle(folder, verify=False)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("code.py", b"pass", "of a kind"),
        ("lib.so", b"\x7fELF", "of a kind"),
        ("model.pt", b"PK", "of a kind"),
        ("pytorch_model.bin", b"PK\x03\x04", "no .xml beside it"),
        ("picture.png", b"\x89PNG\r\n\x1a\n", "of a kind"),
        ("sub/picture.png", b"\x89PNG\r\n\x1a\n", "of a kind"),
        ("exemplars/sub/picture.png", b"\x89PNG\r\n\x1a\n", "of a kind"),
        ("exemplars/code.py", b"pass", "of a kind"),
        ("exemplars/script.png", b"#!/bin/sh", "no PNG image"),
        ("pickle.safetensors", b"\x80\x04\x95" + b"\0" * 40, "not a safetensors file"),
        ("huge.safetensors", (1 << 63).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    ],
)
def test_files_that_could_run_are_neither_sealed_nor_opened(
    folder: Path, name: str, content: bytes, words: str
) -> None:
    sealed(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit(folder, lambda body: body["files"].update({name: entry}))
    with pytest.raises(BadInput, match=words):
        open_bundle(folder)
    with pytest.raises(BadInput, match=words):
        sealed(folder)


@pytest.mark.parametrize("name", ["{}.txt", "{}/a.txt"])
def test_a_manifest_of_too_many_files_or_folders_is_refused(name: str) -> None:
    """One blob of five bytes could otherwise fill a disk with links to it and the folders they are in."""
    most = MOST_FOLDERS if "/" in name else MOST_FILES
    body: dict[str, Any] = {"schema": SCHEMA, "runtime": "openvino", "max_new_tokens": 1, "execution": {}, "prompt": {}}
    for count, taken in ((most, True), (most + 1, False)):
        files = {name.format(number): {"sha256": "0" * 64, "size": 5} for number in range(count)}
        with contextlib.nullcontext() if taken else pytest.raises(BadInput, match="files or 64 folders"):
            parse_manifest(json.dumps(body | {"files": files}), Path(MANIFEST))


def test_settings_out_of_range_are_not_sealed(folder: Path) -> None:
    with pytest.raises(BadInput, match="inference_precision"):
        sealed(folder, execution=Execution(inference_precision="f64"))
    with pytest.raises(BadInput, match="max_new_tokens"):
        sealed(folder, max_new_tokens=0)
    with pytest.raises(BadInput, match="max_new_tokens"):
        sealed(folder, max_new_tokens=1 << 20)
    assert not (folder / "manifest.json").exists()


def test_the_bundle_of_a_server_pins_its_name_and_nothing_else(folder: Path) -> None:
    made = sealed(folder, runtime="server", execution=served("llama-8.1_b"))
    assert open_bundle(folder) == made
    for wrong in (
        Execution(server="llama"),
        replace(served("llama"), threads=1),
        served(""),
        served("../x"),
        Execution(),
    ):
        with pytest.raises(BadInput, match=r"execution\.server"):
            sealed(folder, runtime="server", execution=wrong)
    with pytest.raises(BadInput, match=r"execution\.server"):
        sealed(folder, runtime="torch", execution=served("llama"))
    edit(folder, lambda body: body["execution"].update(server=["llama"]))
    with pytest.raises(BadInput, match=r"execution\.server"):
        open_bundle(folder)


def test_a_prompt_with_exemplars_is_sealed_and_opened(folder: Path) -> None:
    (folder / "exemplars").mkdir()
    (folder / "exemplars" / "exemplars.json").write_text("{}")
    (folder / "exemplars" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    prompt = Prompt(exemplars=8, exemplar_choice="nearest", exemplar_order="reversed", exemplar_field="kind")
    made = sealed(folder, prompt=prompt, max_new_tokens=4096)
    assert open_bundle(folder) == made
    assert open_bundle(folder).manifest.prompt == prompt
    assert "exemplars/1.png" in made.manifest.files


def test_a_manifest_from_before_there_were_exemplars_still_opens(folder: Path) -> None:
    sealed(folder, prompt=Prompt(template="look : {question}"))
    old = {"template": "look : {question}", "hint_field": "", "hints": {}}
    edit(folder, lambda body: body.update(prompt=old))
    assert open_bundle(folder).manifest.prompt == Prompt(template="look : {question}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(folder: Path, number: str) -> None:
    sealed(folder, measured={"load_s": 12.5})
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("12.5", number))
    with pytest.raises(BadInput, match=r"manifest\.json is not JSON"):
        open_bundle(folder)
