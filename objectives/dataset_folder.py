"""Reads a folder that Hugging Face's ``datasets`` saved. Needs that library (the extra ``hf``); touches no network."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hardware_profiles.store import sync_folder
from objectives.rows import column_names
from spaces.canonical import canonical_json
from spaces.errors import BadInput

_BATCH = 32  # rows that are in memory at once, with the bytes of their images


def dataset_rows(folder: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a saved dataset with their numbers, from 1, as JSON has them.

    Class labels become their names. Images that are part of the dataset are laid out as files in
    ``$XDG_CACHE_HOME/vlmfront/images``, named by their content; nothing is decoded here. Other values that JSON does
    not have become text, bytes are left out, and a value that is missing (null, NaN) is an empty text.

    Raises:
        BadInput: the library is missing, the folder is no saved dataset or is one of several splits, or it is damaged.
    """
    data, labels = _open(folder)
    names = column_names(columns)
    place = 0
    try:
        for batch in data.with_format("arrow").iter(batch_size=_BATCH):
            batch.validate(full=True)  # reading damaged offsets unchecked may crash the process
            for row in batch.to_pylist():
                place += 1
                yield f"row {place}", _row(row, labels, names, folder)
    except BadInput:
        raise
    except Exception as error:  # damaged Arrow files raise whatever their readers meet
        raise BadInput(f"{folder}, row {place + 1}: the saved dataset is damaged ({error}); save it again.") from None


def _open(folder: Path) -> tuple[Any, dict[str, list[str]]]:
    for switch in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(switch, "1")  # read when the library is imported
    try:
        import datasets
    except ImportError:
        raise BadInput(
            f"{folder}: a saved dataset is read by the library datasets; install it with: pip install 'vlmfront[hf]'."
        ) from None
    try:
        data = datasets.load_from_disk(str(folder.resolve()), keep_in_memory=False)
    except FileNotFoundError:
        raise BadInput(f"{folder}: this is no folder that datasets' save_to_disk wrote; correct the path.") from None
    except Exception as error:  # as above
        raise BadInput(f"{folder}: the saved dataset is damaged ({error}); save it again.") from None
    if isinstance(data, datasets.DatasetDict):
        raise BadInput(f"{folder}: this holds several splits; name the folder of one ({', '.join(data)}).")
    return data, {name: found for name, feature in data.features.items() if (found := _labels(feature))}


def _labels(feature: Any) -> list[str] | None:
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(names) if names else None


def _row(
    row: dict[str, Any], labels: Mapping[str, list[str]], names: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if name == names["image"]:
            value = _image_path(value, folder)
        elif name in labels:
            value = _named(value, labels[name])
        value = _plain(value)
        if name in names.values() and name != names["image"]:
            value = [_text(item) for item in value] if isinstance(value, list) else _text(value)
        missing = value is None or value != value
        if not missing or name not in names.values():
            plain[name] = "" if missing else value
    return plain


def _named(value: Any, labels: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, labels) for item in value]
    return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None


def _text(value: Any) -> Any:
    return canonical_json(value) if isinstance(value, bool | int | float) and value == value else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, bytes):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _image_path(value: Any, folder: Path) -> Any:
    if not isinstance(value, dict):
        return value
    content, path = value.get("bytes"), value.get("path")
    return str(_laid_out(content, folder)) if isinstance(content, bytes) else path


def _laid_out(content: bytes, folder: Path) -> Path:
    sha = hashlib.sha256(content).hexdigest()
    path = image_cache() / sha[:2] / sha
    temporary = path.with_name(f".{sha}.{os.getpid()}.tmp")
    try:
        if path.is_file() and path.read_bytes() == content:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise BadInput(
            f"{folder}: its images cannot be laid out in {image_cache()} ({error.strerror}); "
            "make room there, or set XDG_CACHE_HOME to a folder that can be written."
        ) from None
    return path


def image_cache() -> Path:
    """The folder of images that came inside datasets; each file is named by the sha256 of its content."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "vlmfront" / "images"
