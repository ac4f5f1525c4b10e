"""Inputs for the readers that nobody meant: valid files of every kind, spoiled at random but repeatably."""

import csv
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from PIL import Image

from objectives.task import load_task, read_split
from search.config import load_config
from spaces.errors import BadInput
from spaces.plugins import builtin
from spaces.reader import load_space

Reader: TypeAlias = Callable[[Path], object]
Document: TypeAlias = Any

SLOWEST = 10.0
"""Seconds of CPU that one input may take; a billion laughs written out would take hours."""

TASK: Document = {
    "schema": "vlmfront.task/1",
    "name": "demo",
    "metric": {"name": "numeric", "tolerance": 0.5},
    "slices": ["kind", "answer"],
    "splits": {"search": "search.jsonl", "train": "train.csv"},
    "columns": {"id": "key"},
    "question": "how much ?",
    "hints": {"field": "kind", "values": {"a": "x", "b": "y"}},
    "unknown": ["unknown"],
    "costs": {"classes": ["1", "2"], "matrix": [[0, 1], [10, 0.5]], "other": 10, "where": {"kind": ["a"]}},
    "exemplars": {"split": "train", "field": "kind"},
    "max_new_tokens": 8,
}
SPACE: Document = {
    "schema": "vlmfront.space/1",
    "axes": {
        "model": {"path": ["a", "b"]},
        "pruning": {"ffn": {"choices": [0, 0.5], "when": {"model.path": ["b"]}}},
        "tuning": {"method": ["none", "lora"], "steps": {"low": 10, "high": 90, "step": 10}},
        "quantization": {"weights": ["fp16", "int8", "int4"], "group_size": [32, 64]},
        "visual_tokens": {"keep": {"low": 0.25, "high": 1.0}},
        "prompt": {"template": ["{question}"], "hint": [False, True]},
        "runtime": {"name": "openvino", "threads": [1, 2]},
    },
}
SEARCH: Document = {
    "schema": "vlmfront.search/1",
    "name": "try",
    "task": "task.yaml",
    "space": "space.yaml",
    "objectives": ["accuracy", "latency_p50_ms"],
    "limits": {"size_mb": {"max": 100}, "forgetting": {"max": 0.1}},
    "retention": {"task": "other.yaml", "split": "search", "items": 64},
    "racing": True,
    "sampler": "tpe",
    "budget": "4trials",
    "items": 24,
    "seed": 0,
    "workers": 1,
    "store": "store",
}
ROWS: Document = [
    {"id": "1", "image": "0.png", "question": "which ?", "answer": "red", "kind": "a"},
    {"id": "2", "image": "1.png", "question": "which ?", "answers": ["red", "lime"], "kind": "b", "count": 3},
    {"id": "3", "image": "0.png", "question": "wo , bitte ?", "answer": "grün", "kind": "a", "box": [1, [2.5]]},
]
ODD: list[Any] = [
    None, True, -1, 0, 10**400, 1e308, -0.0, float("nan"), float("inf"), "", " ", "\x00", "a\nb", "\ud800", "\u202e",
    "x" * 10_000, "../../../etc/passwd", "/dev/zero", "/dev/null", "~", ".", date(2026, 11, 20), b"\x80", [], {}, [[]],
    {"": ""}, [None], {"a": {"b": {"c": []}}}, "null", "1e999", "[1, 2", "{question}", "1:1:1", "=", "<<", (1, 2),
    ":", ".x:y", "os:nothing", "os.path:sep", "no such:thing", "x" * 300 + ":y",
]  # fmt: skip
SNIPPETS = (
    "&a ", "*a", "&a [*a]", "<<: *a\n", "<<: {name: x}\n", "!!binary ", "!!int ", "!!float x", "!!timestamp x",
    "!!set ", "!!omap ", "!!python/name:os.system ", "!x ", "? ", "- ", "---\n", "...\n", "%YAML 9.9\n", "\t",
    "2001-13-45", "0o8", "0b", "1:99:1" + ":1" * 300 + ".5", "~", "|\n", ">-\n", "\ufeff", "\x00", "\x85", "\u2028",
    "🙂", "'", '"', '""', ",",
    ";", "\r", "\r\n", "\n", "{", "}", "[", "]", ":", "#", "NaN", "-Infinity", "1" * 5000, "\\ud800", "\\u0000",
    "schema: x\n", "name: a\nname: b\n", "[" * 2000, "{" * 300, '{"a":' * 400, "- " * 400, "@", "`", "%",
)  # fmt: skip
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_KEYS = "abcdefghi"
BOMB = "".join(f"{key}: &{key} [{', '.join([f'*{_KEYS[place]}'] * 9)}]\n" for place, key in enumerate(_KEYS[1:]))
ENCODINGS = ("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp500", "utf-7")


def readers(folder: Path) -> dict[str, tuple[Path, Callable[[Document], str], Document, Reader]]:
    """By kind of file: where it is to lie, how it is written, a valid content, and what reads it."""
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    plain = {"schema": "vlmfront.task/1", "name": "x", "metric": "exact", "slices": ["kind"]}
    (folder / "sets.yaml").write_text(yaml.safe_dump({**plain, "splits": {"lines": "x.jsonl", "cells": "x.csv"}}))
    sets = load_task(folder / "sets.yaml")
    axes = builtin()
    return {
        "task": (folder / "task.yaml", _yaml, TASK, load_task),
        "space": (folder / "space.yaml", _yaml, SPACE, lambda path: load_space(path, axes).id),
        "search": (folder / "search.yaml", _yaml, SEARCH, load_config),
        "jsonl": (folder / "x.jsonl", _jsonl, ROWS, lambda _: read_split(sets, "lines")),
        "csv": (folder / "x.csv", _csv, ROWS, lambda _: read_split(sets, "cells")),
    }


def fuzz(folder: Path, count: int, seed: int) -> dict[str, Counter[str]]:
    """Give ``count`` spoiled inputs to the readers, in turn; what each kind of file came to.

    Raises:
        AssertionError: an input brought anything but success or one sentence that names its file; the message holds the
            seed and the start of the input.
    """
    found: dict[str, Counter[str]] = {}
    kinds = readers(folder)
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        kind = list(kinds)[number % len(kinds)]
        path, write, valid, read = kinds[kind]
        content = spoiled(valid, write, chance)
        path.write_bytes(content)
        begun = time.process_time()
        outcome = _outcome(read, path)
        spent = time.process_time() - begun
        told = f"seed {seed}, input {number} ({kind}): {outcome}; {spent:.1f} s; it begins {content[:300]!r}"
        assert outcome in ("read", "refused"), told
        assert spent < SLOWEST, told
        found.setdefault(kind, Counter())[outcome] += 1
    return found


def spoiled(valid: Document, write: Callable[[Document], str], chance: random.Random) -> bytes:
    """A valid document with something wrong in its values, in its text or in its bytes, or in all three."""
    level = chance.choice(("values", "values", "text", "bytes", "all"))
    document = json.loads(json.dumps(valid))
    for _ in range(chance.choice((1, 1, 1, 2, 3)) if level in ("values", "all") else 0):
        document = _odd_values(document, chance)
    text = write(document)
    for _ in range(chance.choice((1, 1, 1, 2)) if level in ("text", "all") else 0):
        text = chance.choice((_snippet, _snippet, _lines, _cut, _bomb))(text, chance)
    encoding = chance.choice(ENCODINGS) if level == "bytes" and chance.random() < 0.2 else "utf-8"
    content = bytearray(text.encode(encoding, errors="surrogatepass" if encoding == "utf-8" else "replace"))
    for _ in range(chance.choice((1, 2, 8)) if level in ("bytes", "all") and content else 0):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def _outcome(read: Reader, path: Path) -> str:
    try:
        read(path)
    except BadInput as error:
        message = str(error)
        fine = "\n" not in message and len(message) < 1000 and path.name in message
        return "refused" if fine else f"an unfit message: {message[:2000]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return "read"


def _odd_values(document: Document, chance: random.Random) -> Document:
    """Replace, drop, rename, wrap or double one value somewhere in a document."""
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return deepcopy(chance.choice(ODD))
    inside, key = chance.choice(places)
    match chance.randrange(9):
        case 0 | 1:
            inside[key] = deepcopy(chance.choice(ODD))
        case 2 | 3:
            other, name = chance.choice(places)
            inside[key] = deepcopy(other[name])
        case 4 if type(inside[key]) in (int, float) and abs(inside[key]) < 1e300:
            inside[key] *= chance.choice((-1, 0, 0.5, 2, 1000))
        case 5:
            del inside[key]
        case 6 if isinstance(inside, dict):
            inside[chance.choice((key + "x", "", "answers", "<<", key.upper()))] = inside.pop(key)
        case 7:
            inside[key] = _deep(inside[key], chance.choice((1, 10, 60, 90)))
        case _:
            inside[key] = [inside[key]] if chance.random() < 0.5 else {"name": inside[key]}
    return document


def _collect(value: Document, places: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        places.append((value, key))
        if len(places) < 1000:
            _collect(item, places)


def _deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def _snippet(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    return text[:place] + chance.choice(SNIPPETS) + text[place:]


def _lines(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    place = chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[place])
        case 2:
            lines[place] = " " * chance.randrange(1, 5) + lines[place]
        case _:
            chance.shuffle(lines)
    return "".join(lines)


def _cut(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _bomb(text: str, chance: random.Random) -> str:
    return f"a: &a [{', '.join('x' * 9)}]\n{BOMB}{text}" if chance.random() < 0.2 else text + text


def _yaml(document: Document) -> str:
    try:
        return str(yaml.dump(document, Dumper=_DUMPER, allow_unicode=True))
    except (yaml.YAMLError, RecursionError, UnicodeEncodeError):  # a value that YAML cannot write, or too deep a one
        return str(document)


def _jsonl(document: Document) -> str:
    rows = document if isinstance(document, list) else [document]
    return "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows)


def _csv(document: Document) -> str:
    rows = [row for row in document if isinstance(row, dict)] if isinstance(document, list) else []
    header = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(header)
    writer.writerows([_cell(row.get(name, "")) for name in header] for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, list) else str(value)
