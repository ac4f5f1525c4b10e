import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from hardware_profiles.agent.blobs import Blobs
from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.layout import lay_out
from hardware_profiles.bundle import parse_manifest
from hardware_profiles.headers import MOST_COUNT, MOST_JSON, check_gguf, check_ir, check_safetensors
from hardware_profiles.messages import Job
from hardware_profiles.wire import WireJob, WireRequest
from spaces.errors import BadInput
from tests.hardware_profiles.agent.conftest import PNG, manifest_of, sha256

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
WHERE = Path("manifest.json")


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SOUND = {
    "a": entry("F16", [2, 3], 0, 12),
    "b": entry("F4", [3, 2], 12, 15),
    "none": entry("F32", [0, 7], 15, 15),
    "scalar": entry("I64", [], 15, 23),
    "__metadata__": {"format": "pt"},
}

TENSORS: dict[str, bytes] = {
    "a pickle": b"\x80\x04\x95" + b"\0" * 40,
    "empty": b"",
    "a header without end": (1 << 63).to_bytes(8, "little") + b"{}",
    "a header past the file": tensors({}, length=3),
    "a header that is too long": tensors(b"{" + b" " * MOST_JSON + b"}"),
    "no JSON": tensors(b"{]"),
    "no UTF-8": tensors(b'{"\xff":1}'),
    "deep": tensors(b'{"a":' + b"[" * 200_000),
    "twice": tensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],'
                     b'"data_offsets":[0,1]}}', b"x"),
    "overlap": tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, b"x" * 6),
    "the same bytes twice": tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}, b"x" * 4),
    "a hole": tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 5, 9)}, b"x" * 9),
    "past the end": tensors({"a": entry("U8", [4], 0, 4)}, b"x" * 3),
    "bytes of nobody": tensors({"a": entry("U8", [4], 0, 4)}, b"x" * 5),
    "a size that is not the shape's": tensors({"a": entry("F32", [2], 0, 4)}, b"x" * 4),
    "a shape that overflows": tensors({"a": entry("F64", [1 << 32, 1 << 32], 0, 0)}),
    "half a byte": tensors({"a": entry("F4", [3], 0, 1)}, b"x"),
    "a size below 0": tensors({"a": entry("U8", [-1, -4], 0, 4)}, b"x" * 4),
    "backwards": tensors({"a": entry("U8", [4], 4, 0)}, b"x" * 4),
    "an unknown type": tensors({"a": entry("Q4_K", [4], 0, 4)}, b"x" * 4),
    "a type that is a list": tensors({"a": entry(["U8"], [4], 0, 4)}, b"x" * 4),
    "a shape of truth": tensors({"a": entry("U8", [True], 0, 1)}, b"x"),
    "a fraction": tensors({"a": entry("U8", [1.0], 0, 1)}, b"x"),
    "many dimensions": tensors({"a": entry("U8", [1] * 100_000, 0, 1)}, b"x"),
    "three offsets": tensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
    "a field too many": tensors({"a": entry("U8", [1], 0, 1) | {"more": 1}}, b"x"),
    "no tensor": tensors({"a": 1}),
    "notes that are none": tensors({"__metadata__": {"a": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_safetensors_that_lie_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(TENSORS[case])
    with pytest.raises(BadInput, match=r"a\.safetensors is not a safetensors file: .*\.$"):
        check_safetensors(path)


def test_sound_safetensors_pass(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensors(SOUND, b"x" * 23))
    check_safetensors(path)
    path.write_bytes(tensors(b"{}      "))
    check_safetensors(path)
    check_safetensors(tiny_checkpoint / "model.safetensors")
    save_file({name: np.zeros((2, 3), dtype=name) for name in ("float64", "float16", "int8", "bool")}, path)
    check_safetensors(path)


@FUZZ
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.builds(
            entry,
            st.sampled_from(["U8", "F16", "F4", "X"]),
            st.lists(st.integers(-1, 4), max_size=3),
            st.integers(-1, 30),
            st.integers(-1, 30),
        ),
        max_size=4,
    ),
    st.integers(0, 40),
)
def test_tensors_that_pass_fill_the_file_each_byte_once(tmp_path: Path, header: dict[str, Any], size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensors(header, b"x" * size))
    with contextlib.suppress(BadInput):
        check_safetensors(path)
        with safe_open(path, framework="numpy") as found:  # the format's own reader takes it too
            assert set(found.keys()) == set(header)
        owned = [byte for one in header.values() for byte in range(*one["data_offsets"])]
        assert sorted(owned) == list(range(size))
        widths = {"U8": 8, "F16": 16, "F4": 4}
        for one in header.values():
            begin, end = one["data_offsets"]
            assert int(np.prod(one["shape"])) * widths[one["dtype"]] == 8 * (end - begin)


@FUZZ
@given(place=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_damaged_safetensors_are_taken_or_refused(tmp_path: Path, place: int, byte: int, cut: int) -> None:
    content = bytearray(tensors(SOUND, b"x" * 23))
    content[place % len(content)] = byte
    path = tmp_path / "a.safetensors"
    path.write_bytes(content[: max(cut, 8)])
    with contextlib.suppress(BadInput):
        check_safetensors(path)


def graph(constants: str, root: str = "net") -> str:
    return f'<?xml version="1.0"?>\n<{root} name="model" version="11"><layers>{constants}</layers></{root}>'


def constant(offset: Any, size: Any, kind: str = "f16", shape: str = "2, 3", layer: str = "Const") -> str:
    data = f'<data element_type="{kind}" shape="{shape}" offset="{offset}" size="{size}"/>'
    return f'<layer id="1" type="{layer}">{data}</layer>'


GRAPHS: dict[str, str] = {
    "no XML": "<net",
    "an element that is too long": f'<net name="{"x" * (MOST_JSON + (1 << 20))}"/>',
    "an element that is too long to come to an end": f'<net name="{"x" * (MOST_JSON + (1 << 20))}',
    "another root": graph("", root="html"),
    "two roots": graph("") + graph(""),
    "past the end": graph(constant(90, 12)),
    "an offset that overflows": graph(constant((1 << 64) - 6, 12)),
    "an offset below 0": graph(constant(-1, 12)),
    "no offset": graph(constant("", 12)),
    "an offset in hex": graph(constant("0x1", 12)),
    "other digits": graph(constant("٣", 12)),
    "too small for its shape": graph(constant(0, 11)),
    "a shape that overflows": graph(constant(0, 12, shape="4294967296, 4294967296")),
    "a shape below 0": graph(constant(0, 12, shape="-1, 3")),
    "an unknown type": graph(constant(0, 12, kind="f17")),
    "no type": graph(constant(0, 12, kind="")),
    "more texts than there are": graph(constant(0, 12, kind="string", shape="3")),
    "within a body": graph(f'<layer type="If"><then_body><layers>{constant(90, 12)}</layers></then_body></layer>'),
    "after another layer within": graph(
        '<layer type="Const"><layer type="Add"/><data element_type="f16" shape="2" offset="99" size="4"/></layer>'
    ),
    "the older name": graph(constant(90, 12, layer="Constant")),
    "deep": graph("<a>" * 200 + "</a>" * 200),
    "a document type": '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]><net>&a;</net>',
    "a document elsewhere": '<?xml version="1.0"?><!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>',
    "an unknown entity": "<net>&a;</net>",
    "a number where text is": graph("\0"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_lie_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.xml"
    path.write_text(GRAPHS[case], encoding="utf-8")
    path.with_suffix(".bin").write_bytes((2).to_bytes(4, "little") * 25)
    with pytest.raises(BadInput, match=r"model\.xml is not an OpenVINO graph: .*\.$"):
        check_ir(path)


def test_an_encoding_that_hides_elements_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        path.write_bytes(graph(constant(90, 12)).encode(encoding))
        with pytest.raises(BadInput):
            check_ir(path)


def test_sound_graphs_pass(tmp_path: Path, tiny_openvino: Path) -> None:
    found = list(tiny_openvino.rglob("*.xml"))
    assert len(found) == 5
    for path in found:
        check_ir(path)
    path = tmp_path / "model.xml"
    shared = constant(0, 12) + constant(0, 12) + constant(4, 8, kind="string", shape="2") + constant(99, 1, "i4", "2")
    path.write_text(graph(shared + constant(0, 4, shape="", kind="f32") + '<layer type="LRN"><data size="5"/></layer>'))
    path.with_suffix(".bin").write_bytes((2).to_bytes(4, "little") * 25)
    check_ir(path)
    path.with_suffix(".bin").write_bytes((2).to_bytes(4, "little") * 24 + b"xxx")
    with pytest.raises(BadInput, match=r"ends at 100, its \.bin has 99 bytes"):
        check_ir(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(BadInput, match="has 0 bytes"):
        check_ir(path)


@FUZZ
@given(place=st.integers(0, 10_000), content=st.binary(min_size=1, max_size=4))
def test_a_damaged_graph_is_taken_or_refused(tmp_path: Path, tiny_openvino: Path, place: int, content: bytes) -> None:
    source = next(tiny_openvino.rglob("openvino_detokenizer.xml"))
    text = bytearray(source.read_bytes())
    place %= len(text)
    text[place : place + len(content)] = content
    path = tmp_path / "model.xml"
    path.write_bytes(text)
    if not path.with_suffix(".bin").exists():
        shutil.copy(source.with_suffix(".bin"), path.with_suffix(".bin"))
    with contextlib.suppress(BadInput):
        check_ir(path)


def test_a_large_graph_is_read_quickly(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(
        graph((constant(0, 12) + '<layer type="Add"><input><port><dim>1</dim></port></input></layer>') * 20_000)
    )
    path.with_suffix(".bin").write_bytes(b"x" * 12)
    begun = time.process_time()
    check_ir(path)
    assert time.process_time() - begun < 3


def gguf(tensors: int, pairs: int, room: int = 100, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    counts = tensors.to_bytes(8, "little") + pairs.to_bytes(8, "little")
    return magic + version.to_bytes(4, "little") + counts + b"\0" * room


def test_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (gguf(1, 2), gguf(0, 0, room=0), gguf(4, 0, room=96), gguf(0, 7, room=91, version=2)):
        path.write_bytes(content)
        check_gguf(path)
    for content in (
        b"",
        b"GGUF",
        gguf(1, 2, magic=b"GGML"),
        gguf(1, 2, version=1),
        gguf(1, 2, version=3 << 24),
        gguf(5, 0, room=96),
        gguf(0, 8, room=91),
        gguf((1 << 64) - 1, 0),
        gguf(MOST_COUNT + 1, 0, room=0),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"model\.gguf is not a GGUF file"):
            check_gguf(path)


NAMES = {
    "above": "../x.json",
    "above, within": "a/../../x.json",
    "absolute": "/x.json",
    "dotted": "./x.json",
    "a folder": "a/",
    "nothing": "",
    "a drive": "C:x.json",
    "backslashes": "..\\x.json",
    "a null": "x\0.json",
    "a newline": "x\n.json",
    "half a character": "\ud800.json",
    "long": "x" * 260 + ".json",
    "the manifest": "manifest.json",
    "the manifest in capitals": "Manifest.JSON",
    "case": "CONFIG.json",
    "a file as a folder": "config.json/x.json",
    "a file as a folder in capitals": "Config.JSON/x.json",
}


@pytest.mark.parametrize("case", NAMES)
def test_a_manifest_with_such_a_path_is_refused_whole(tmp_path: Path, case: str) -> None:
    body = manifest_of({"config.json": b"{}"})
    body["files"][NAMES[case]] = body["files"]["config.json"]
    blobs = Blobs(tmp_path / "blobs", limit_bytes=1 << 20, needed=set)
    with pytest.raises(BadInput, match=r"^.*manifest\.json (lists|has characters)"):
        lay_out(tmp_path / "job", asked(json.dumps(body)), blobs)
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("sha", ["../../epoch", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "", 7, None, "0" * 64 + "\n"])
def test_a_digest_is_64_digits(sha: Any) -> None:
    body = manifest_of({"config.json": b"{}"})
    body["files"]["config.json"]["sha256"] = sha
    with pytest.raises(BadInput, match="a value for files that is out of range"):
        parse_manifest(json.dumps(body), WHERE)


def test_a_key_that_comes_twice_is_refused() -> None:
    body = manifest_of({"config.json": b"{}"})
    text = json.dumps(body).replace('"files": {', '"files": {"config.json": {"sha256": "x", "size": 1}, ')
    assert json.loads(text) == body
    with pytest.raises(BadInput, match=r"the key 'config\.json' comes twice"):
        parse_manifest(text, WHERE)
    with pytest.raises(BadInput, match="the key 'size' comes twice"):
        parse_manifest(json.dumps(body).replace('"size"', '"size": 0, "size"'), WHERE)


def asked(manifest: str) -> WireJob:
    image = WireRequest(id="0", image=f"sha256:{sha256(PNG)}", question="what ?")
    return WireJob(kind="answer", manifest=manifest, requests=(image,))


PART = st.sampled_from(["..", ".", "", "a", "A", "config.json", "b.json", "/", "~", "\0", "images", "con\\", "ä.json"])


@FUZZ
@given(names=st.lists(st.lists(PART, max_size=4).map("/".join), max_size=4), damage=st.integers(0, 3000))
def test_no_manifest_leads_outside_its_job(tmp_path: Path, names: list[str], damage: int) -> None:
    """Whatever the paths are: it is refused, or each file lies below the job's own folder, as a link of a blob."""
    blobs = Blobs(tmp_path / "blobs", limit_bytes=1 << 20, needed=set)
    for content in (b"{}", PNG):
        if blobs.size(sha256(content)) is None:
            blobs.begin(sha256(content), 0, len(content), len(content))
            blobs.append(sha256(content), 0, content)
            blobs.finish(sha256(content))
    text = json.dumps(manifest_of({"config.json": b"{}", **dict.fromkeys(names, b"{}")}))
    if damage < len(text):
        text = text[:damage] + '"' + text[damage + 1 :]
    folder = tmp_path / "jobs" / "one"
    before = sorted(path for path in tmp_path.rglob("*") if folder not in (path, *path.parents))
    with contextlib.suppress(BadInput, Refused):
        order = lay_out(folder, asked(text), blobs)
        assert isinstance(order.job, Job)
        for path in folder.rglob("*"):
            assert not path.is_symlink()
            assert path.is_dir() or path.name == "manifest.json" or path.stat().st_nlink >= 2
    shutil.rmtree(tmp_path / "jobs", ignore_errors=True)
    after = sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "jobs")
    assert after == [path for path in before if path != tmp_path / "jobs"]


@FUZZ
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_no_manifest(content: bytes) -> None:
    with pytest.raises(BadInput, match=r"^manifest\.json "):
        parse_manifest(content, WHERE)
