"""The files of a model folder: which ones travel from stage to stage, and how."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
LANGUAGE_MODEL = "openvino_language_model"
TEXT_EMBEDDINGS = "openvino_text_embeddings_model"
VISION_EMBEDDINGS = "openvino_vision_embeddings_model"
TOKENIZER = "openvino_tokenizer"
DETOKENIZER = "openvino_detokenizer"


def link(source: Path, target: Path) -> None:
    """The same bytes at ``target``: a hard link where the file system allows one, else a copy. Links are followed."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def link_all(source: Path, target: Path, names: Iterable[str]) -> None:
    """Links those of ``names`` that the folder ``source`` has into the folder ``target``."""
    for name in names:
        if (source / name).is_file():
            link(source / name, target / name)


def link_others(source: Path, target: Path, graphs: Iterable[str]) -> None:
    """Links every file of the exported folder ``source`` except xml and bin of the named graphs."""
    rewritten = {f"{graph}.{ending}" for graph in graphs for ending in ("xml", "bin")}
    link_all(source, target, sorted(path.name for path in source.iterdir() if path.name not in rewritten))


def read_json(path: Path) -> Any:
    """The parsed file, or an empty object where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, value: Any) -> None:
    """The value as indented JSON with sorted keys, in a new file (an earlier hard link is left alone)."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
