"""The deployable folder: one runtime's model files and a manifest that pins how they run."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hardware_profiles.headers import MOST_JSON, check_gguf, check_ir, check_safetensors
from hardware_profiles.store import write_atomic
from spaces.canonical import file_digest, read_json
from spaces.errors import BadInput
from spaces.exemplars import FOLDER as EXEMPLARS
from spaces.exemplars import INDEX
from spaces.prompting import CHOICES, MOST_EXEMPLARS, ORDERS, QUESTION, Prompt
from spaces.serving import SERVER, SERVER_NAME

SCHEMA = "vlmfront.bundle/1"
MANIFEST = "manifest.json"
ACCEPTED = (".safetensors", ".gguf", ".xml", ".bin", ".json", ".txt", ".jinja")
MOST_TOKENS = 4096  # of one answer, as in a task
PRECISIONS = ("f32", "bf16", "f16")
KV_PRECISIONS = (*PRECISIONS, "u8")
DEVICES = ("cpu", "cuda")
OWN = "own"
"""In place of a setting: a server decides it, and nothing is pinned."""
MOST_FILES, MOST_FOLDERS = 1 << 14, 64  # one blob may stand for many files, and every folder takes a block of the disk
_NAME_BYTES = 255  # of a path in the bundle: what file systems allow of one name
_WHOLE_LIMIT = 1 << 31
_HEADERS = {".safetensors": check_safetensors, ".gguf": check_gguf, ".xml": check_ir}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Settings that a runtime must run with and prove after loading.

    Attributes:
        threads: CPU threads of inference.
        device: ``cpu`` or ``cuda``, the first GPU that torch sees.
        inference_precision: ``f32``, ``bf16`` or ``f16``: of activations and matrix products.
        kv_cache_precision: the same, or ``u8``.
        dynamic_quantization: ``off``: no activation is quantized at run time.
        server: name of the server that the device starts; empty for every runtime but ``server``, whose other settings
            are all ``own`` (see `served`).
    """

    threads: int = 1
    inference_precision: str = "f32"
    kv_cache_precision: str = "f32"
    dynamic_quantization: str = "off"
    server: str = ""
    device: str = "cpu"


def served(server: str) -> Execution:
    """What the bundle of a server pins: its name, and nothing else."""
    return Execution(
        threads=0, inference_precision=OWN, kv_cache_precision=OWN, dynamic_quantization=OWN, server=server, device=OWN
    )


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What a file of the bundle must be: its sha256 as 64 hexadecimal digits and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle is made of, how it is asked and run, where it comes from and what it measured.

    Attributes:
        files: by path relative to the bundle, with ``/``; every file but the manifest itself.
        max_new_tokens: cap of generated tokens for each answer; decoding is greedy.
        candidate: knob -> value, as searched.
        provenance: stage keys and tool versions.
        measured: figures by name, as the search measured them.
    """

    runtime: str
    files: Mapping[str, FileEntry]
    prompt: Prompt = field(default_factory=Prompt)
    max_new_tokens: int = 8
    execution: Execution = field(default_factory=Execution)
    candidate: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A folder whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(entry.size for entry in self.manifest.files.values())


def seal(
    folder: Path,
    *,
    runtime: str,
    prompt: Prompt,
    max_new_tokens: int,
    execution: Execution,
    candidate: Mapping[str, Any],
    provenance: Mapping[str, Any],
    measured: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write ``folder``'s manifest with the digest and size of every file in it; an older manifest is replaced.

    Raises:
        BadInput: for a file of a kind that bundles may not hold, or a setting out of range.
    """
    files = {name: FileEntry(sha256=file_digest(path), size=path.stat().st_size) for name, path in _walk(folder)}
    manifest = Manifest(
        runtime=runtime,
        files=files,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        execution=execution,
        candidate=candidate,
        provenance=provenance,
        measured=measured or {},
    )
    body = {"schema": SCHEMA, **asdict(manifest)}
    _parse(body, folder / MANIFEST)
    for name in files:
        _check_kind(folder, name, files)
    write_atomic(folder / MANIFEST, json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Bundle(folder=folder, manifest=manifest)


def open_bundle(path: Path, verify: bool = True) -> Bundle:
    """The bundle in ``path``. ``verify`` also reads every file and compares its digest; sizes and names always count.

    Raises:
        BadInput: if the folder is not exactly what its manifest says, or holds what a bundle may not hold.
    """
    where = path / MANIFEST
    if not where.is_file() or where.is_symlink():
        raise BadInput(f"{path} is no bundle: it has no {MANIFEST}; name a folder that `vlmfront export` wrote.")
    manifest = parse_manifest(where.read_bytes(), where)
    found = dict(_walk(path))
    for name, entry in manifest.files.items():
        if name not in found:
            raise BadInput(f"{path / name} is missing; export the bundle again.")
        size = found[name].stat().st_size
        if size != entry.size or (verify and file_digest(found[name]) != entry.sha256):
            raise BadInput(f"{path / name} is not the file that the manifest names; export the bundle again.")
        _check_kind(path, name, manifest.files)
    if extra := sorted(set(found) - set(manifest.files)):
        raise BadInput(f"{path / extra[0]} is not in the manifest; remove it or export the bundle again.")
    return Bundle(folder=path, manifest=manifest)


def parse_manifest(text: str | bytes, where: Path) -> Manifest:
    """The manifest in a text; ``where`` is the file that a refusal names.

    Raises:
        BadInput: if it is none, a path in it leaves the bundle or stands for two files, or a setting is out of range.
    """
    try:
        return _parse(read_json(text), where)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON ({error}); export the bundle again.") from error


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below ``folder`` but its manifest, as name with ``/`` and path."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise BadInput(f"{path} is a symbolic link; a bundle holds plain files only.")
        if path.is_file() and path != folder / MANIFEST:
            yield path.relative_to(folder).as_posix(), path


def _check_kind(folder: Path, name: str, files: Mapping[str, FileEntry]) -> None:
    path = folder / name
    if path.suffix == ".png" and PurePosixPath(name).parent == PurePosixPath(EXEMPLARS):
        with path.open("rb") as stream:
            if stream.read(len(_PNG)) != _PNG:
                raise BadInput(f"{path} is no PNG image; export the bundle again.")
        return
    if path.suffix not in ACCEPTED:
        raise BadInput(f"{path} is of a kind that bundles may not hold; accepted are {', '.join(ACCEPTED)}.")
    if path.suffix == ".bin" and PurePosixPath(name).with_suffix(".xml").as_posix() not in files:
        raise BadInput(f"{path} has no .xml beside it, so it is no OpenVINO model; save weights as safetensors.")
    if name.endswith("config.json") and _names_code(path):
        raise BadInput(f"{path} names code of its own (auto_map), which is never run; take a model without it.")
    if path.suffix in _HEADERS:
        _HEADERS[path.suffix](path)


def _names_code(path: Path) -> bool:
    if path.stat().st_size > MOST_JSON:
        raise BadInput(f"{path} is larger than {MOST_JSON} bytes; take a model whose configuration is less.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}); save the model again.") from error
    return isinstance(config, dict) and bool(config.get("auto_map"))


def _check_name(name: str, where: Path) -> None:
    parts = PurePosixPath(name).parts
    plain = parts and not name.startswith("/") and ".." not in parts and "\\" not in name and ":" not in name
    named = name.isprintable() and len(name.encode()) <= _NAME_BYTES and name.casefold() != MANIFEST
    if not plain or not named or PurePosixPath(name).as_posix() != name:
        raise BadInput(f"{where} lists the path {name[:300]!r}, which leaves the bundle; export the bundle again.")


def _parse(body: Any, where: Path) -> Manifest:
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        schema = body.get("schema") if isinstance(body, dict) else None
        raise BadInput(f"{where} has schema {schema!r}, not {SCHEMA!r}; use a bundle of this version of vlmfront.")
    try:
        names = [str(name) for name in body["files"]]
        for name in names:
            _check_name(name, where)
        if len(folded := {name.casefold() for name in names}) < len(names):
            raise BadInput(f"{where} lists two paths that differ in case only; export the bundle again.")
        if len(names) > MOST_FILES or len({PurePosixPath(name).parent for name in names}) > MOST_FOLDERS:
            raise BadInput(f"{where} lists over {MOST_FILES} files or {MOST_FOLDERS} folders; export the bundle again.")
        if both := folded.intersection(str(above) for name in folded for above in PurePosixPath(name).parents):
            raise BadInput(f"{where} lists {min(both)!r} as a file and as a folder; export the bundle again.")
        manifest = Manifest(
            runtime=body["runtime"],
            files={name: FileEntry(**entry) for name, entry in body["files"].items()},
            prompt=Prompt(**body["prompt"]),
            max_new_tokens=body["max_new_tokens"],
            execution=Execution(**body["execution"]),
            candidate=dict(body.get("candidate", {})),
            provenance=dict(body.get("provenance", {})),
            measured=dict(body.get("measured", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{where} has a missing or malformed field ({error}); export the bundle again.") from error
    _check_settings(manifest, where)
    return manifest


def _whole(value: Any, low: int, limit: int = _WHOLE_LIMIT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < limit


def _file(entry: FileEntry) -> bool:
    return isinstance(entry.sha256, str) and bool(_SHA256.fullmatch(entry.sha256)) and _whole(entry.size, 0, 1 << 63)


def _texts(values: Any) -> bool:
    return isinstance(values, Mapping) and all(isinstance(value, str) for value in values.values())


def _check_settings(manifest: Manifest, where: Path) -> None:
    execution, prompt = manifest.execution, manifest.prompt
    checks = {
        "runtime": isinstance(manifest.runtime, str),
        "files": bool(manifest.files) and all(map(_file, manifest.files.values())),
        "prompt.template": isinstance(prompt.template, str) and prompt.template.count(QUESTION) == 1,
        "prompt.hint_field": isinstance(prompt.hint_field, str),
        "prompt.hints": _texts(prompt.hints),
        "prompt.exemplars": _whole(prompt.exemplars, 0, MOST_EXEMPLARS + 1)
        and (prompt.exemplars == 0 or f"{EXEMPLARS}/{INDEX}" in manifest.files),
        "prompt.exemplar_choice": prompt.exemplar_choice in CHOICES,
        "prompt.exemplar_order": prompt.exemplar_order in ORDERS,
        "prompt.exemplar_field": isinstance(prompt.exemplar_field, str),
        "max_new_tokens": _whole(manifest.max_new_tokens, 1, MOST_TOKENS + 1),
    } | _execution_checks(execution, serves=manifest.runtime == SERVER)
    for name, holds in checks.items():
        if not holds:
            raise BadInput(f"{where} has a value for {name} that is out of range; export the bundle again.")


def _execution_checks(execution: Execution, *, serves: bool) -> dict[str, bool]:
    own = execution == served(execution.server)
    named = isinstance(execution.server, str) and SERVER_NAME.fullmatch(execution.server) is not None
    return {
        "execution.server": (named and own) if serves else execution.server == "",
        "execution.device": serves or execution.device in DEVICES,
        "execution.threads": serves or _whole(execution.threads, 1),
        "execution.inference_precision": serves or execution.inference_precision in PRECISIONS,
        "execution.kv_cache_precision": serves or execution.kv_cache_precision in KV_PRECISIONS,
        "execution.dynamic_quantization": serves or execution.dynamic_quantization == "off",
    }
