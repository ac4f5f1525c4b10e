"""What a model file says of itself, checked before any engine loads it. Only headers are read, and an IR's whole graph.

An engine that trusts a header reads past the file's end or reserves memory without bound; these checks are for that
alone, and say nothing of the weights.
"""

import json
import math
import os
from pathlib import Path
from typing import Any
from xml.parsers import expat

from spaces.canonical import distinct
from spaces.errors import BadInput

MOST_JSON = 4 << 20
"""Bytes of a safetensors header, of a config file, and of one element of a graph.

The format's own reader takes headers of 100 MB (MAX_HEADER_SIZE, safetensors/src/tensor.rs), which an agent on a small
board may not have as Python objects: measured, JSON takes up to 33 times its size so. A header of 29 000 tensors fits.
"""
MOST_DIMENSIONS = 64  # as NumPy
MOST_DEPTH = 128  # of a graph's elements
MOST_COUNT = 1 << 20  # of a GGUF file's tensors, and of its metadata
_CHUNK = 1 << 20  # bytes
_SAFETENSORS, _GGUF, _IR = "a safetensors file", "a GGUF file", "an OpenVINO graph"
_SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
_IR_BITS = {
    "u1": 1, "u2": 2, "u3": 3, "u4": 4, "i4": 4, "nf4": 4, "f4e2m1": 4, "u6": 6, "boolean": 8, "u8": 8, "i8": 8,
    "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "u16": 16, "i16": 16, "f16": 16, "bf16": 16, "u32": 32, "i32": 32,
    "f32": 32, "u64": 64, "i64": 64, "f64": 64,
}  # fmt: skip
_GGUF_HEADER = 24  # bytes: magic, version, two counts
_GGUF_LEAST_TENSOR = 24  # bytes: an empty name's length, no dimensions, type and offset
_GGUF_LEAST_PAIR = 13  # bytes: an empty key's length, its type and a byte


def check_safetensors(path: Path) -> None:
    """Refuse a file whose tensors do not fill its data without gaps and overlaps, each as large as its shape says.

    The format: https://github.com/huggingface/safetensors, ``Metadata::validate`` in ``safetensors/src/tensor.rs``.

    Raises:
        BadInput: naming the file and what is wrong with it.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length, first = int.from_bytes(stream.read(8), "little"), stream.read(1)
        if first != b"{" or length > min(MOST_JSON, size - 8):
            raise _flaw(path, _SAFETENSORS, f"its header cannot be {length} bytes long and begin with {first!r}")
        text = first + stream.read(length - 1)
    try:
        header = json.loads(text.decode(), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise _flaw(path, _SAFETENSORS, f"its header is not JSON ({error})") from None
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _flaw(path, _SAFETENSORS, "its __metadata__ holds something else than texts")
    end = 0
    for first_byte, last_byte, name in sorted((*_extent(path, name, entry), name) for name, entry in header.items()):
        if first_byte != end:
            raise _flaw(path, _SAFETENSORS, f"the tensor {name!r} begins at {first_byte}, not at {end}")
        end = last_byte
    if end != size - 8 - length:
        raise _flaw(path, _SAFETENSORS, f"its tensors have {end} bytes, the file {size - 8 - length}")


def _extent(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's data begins and ends."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _flaw(path, _SAFETENSORS, f"the tensor {name!r} has other fields than dtype, shape and data_offsets")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    bits = _SAFETENSORS_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _flaw(path, _SAFETENSORS, f"the tensor {name!r} has the unknown type {str(dtype)[:40]!r}")
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise _flaw(path, _SAFETENSORS, f"the tensor {name!r} has a shape or offsets that cannot be")
    if math.prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
        raise _flaw(path, _SAFETENSORS, f"the tensor {name!r} has another size than its type and shape say")
    return offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MOST_DIMENSIONS
        and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
    )


def check_gguf(path: Path) -> None:
    """Refuse a file that does not begin as GGUF does, or counts more tensors or metadata than it has room for.

    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

    Raises:
        BadInput: naming the file and what is wrong with it.
    """
    with path.open("rb") as stream:
        header = stream.read(_GGUF_HEADER)
    room = path.stat().st_size - _GGUF_HEADER
    if len(header) < _GGUF_HEADER or header[:4] != b"GGUF" or int.from_bytes(header[4:8], "little") not in (2, 3):
        raise _flaw(path, _GGUF, "it does not begin with the magic number and version 2 or 3")
    tensors, pairs = int.from_bytes(header[8:16], "little"), int.from_bytes(header[16:24], "little")
    if max(tensors, pairs) > MOST_COUNT or tensors * _GGUF_LEAST_TENSOR + pairs * _GGUF_LEAST_PAIR > room:
        raise _flaw(path, _GGUF, f"it has no room for {tensors} tensors and {pairs} pairs of metadata")


def check_ir(path: Path) -> None:
    """Refuse a graph that is not plain XML, or whose constants are not where its ``.bin`` has bytes for their shape.

    The format: https://docs.openvino.ai/2024/documentation/openvino-ir-format.html, operation ``Constant-1``. Constants
    may share bytes. A document type is refused, so that no entity is ever expanded or fetched.

    Raises:
        BadInput: naming the file and what is wrong with it.
    """
    graph = _Graph(path)
    parser = expat.ParserCreate(encoding="utf-8")  # whatever the file declares: as the engine reads it
    parser.StartElementHandler = graph.start
    parser.EndElementHandler = graph.end
    parser.StartDoctypeDeclHandler = graph.refuse_doctype
    parser.EntityDeclHandler = graph.refuse_doctype
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk)
                if stream.tell() - parser.CurrentByteIndex > MOST_JSON:  # the parser keeps an element until its end
                    raise _flaw(path, _IR, f"an element of it is longer than {MOST_JSON} bytes")
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise _flaw(path, _IR, f"it is no XML ({error})") from None


class _Graph:
    """Follows a graph's elements and checks its constants; ``_open`` are the elements around, the innermost last."""

    def __init__(self, path: Path) -> None:
        weights = path.with_suffix(".bin")
        self._path = path
        self._weights = weights
        self._size = weights.stat().st_size if weights.exists() else 0
        self._open: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "net":
            raise _flaw(self._path, _IR, f"its root is {name[:40]!r}, not 'net'")
        if len(self._open) >= MOST_DEPTH:
            raise _flaw(self._path, _IR, f"its elements are more than {MOST_DEPTH} deep")
        if name == "data" and self._open and self._open[-1] in ("layer Const", "layer Constant"):
            self._constant(attributes)
        self._open.append(f"layer {attributes.get('type', '')}" if name == "layer" else name)

    def end(self, _name: str) -> None:
        self._open.pop()

    def refuse_doctype(self, *_declared: object) -> None:
        raise _flaw(self._path, _IR, "it declares a document type or an entity")

    def _constant(self, attributes: dict[str, str]) -> None:
        kind = attributes.get("element_type", "").lower()
        numbers = [attributes.get("offset", ""), attributes.get("size", "")]
        numbers += [part.strip() for part in attributes.get("shape", "").split(",")] if attributes.get("shape") else []
        if len(numbers) > 2 + MOST_DIMENSIONS or not all(
            text.isascii() and text.isdigit() and len(text) < 20 for text in numbers
        ):
            raise _flaw(self._path, _IR, "a constant has an offset, a size or a shape that is no number")
        offset, size, *shape = map(int, numbers)
        if offset + size > self._size:
            raise _flaw(self._path, _IR, f"a constant ends at {offset + size}, its .bin has {self._size} bytes")
        if kind == "string":
            fits = size >= 4 and self._strings(offset) == math.prod(shape)
        else:
            fits = kind in _IR_BITS and math.prod(shape) * _IR_BITS[kind] <= 8 * size
        if not fits:
            raise _flaw(self._path, _IR, f"a constant of {size} bytes cannot be {kind[:20]!r} of shape {shape}")

    def _strings(self, offset: int) -> int:
        """How many texts a packed text constant holds, by its first four bytes; the engine does not compare them."""
        with self._weights.open("rb") as stream:
            stream.seek(offset, os.SEEK_SET)
            return int.from_bytes(stream.read(4), "little")


def _flaw(path: Path, kind: str, what: str) -> BadInput:
    return BadInput(f"{path} is not {kind}: {what}; export or save the model again.")
