"""The axis of the model: which checkpoint a candidate starts from."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import SIDE_FILES, link_all
from spaces.errors import BadInput

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_NEEDED = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Model:
    """Knob ``path``: a folder in the Hugging Face LLaVA layout. ``apply`` links its files; they stay as they are."""

    name = "model"
    version = 1
    tools: tuple[str, ...] = ()
    domains: Mapping[str, Domain] = MappingProxyType(
        {"path": Domain(kind="text", default="", help="folder of a checkpoint in LLaVA layout")}
    )

    def changes(self, choice: Choice) -> bool:  # noqa: ARG002
        return True

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Links what a load needs of the checkpoint ``source / path`` (an absolute path stands alone).

        Raises:
            BadInput: as `check_model_folder`.
        """
        folder = source / str(choice["path"])
        check_model_folder(folder)
        link_all(folder, target, (*SIDE_FILES, *weight_files(folder)))


def check_model_folder(path: Path) -> None:
    """Refuses a folder that is not a complete, safe LLaVA-layout checkpoint, before any work. Loads no torch.

    Raises:
        BadInput: a folder or file is missing; there is a pickle or remote code; a header is bad; the model is no LLaVA.
    """
    if not path.is_dir():
        raise BadInput(f"model folder {path} does not exist: give the path of a checkpoint in LLaVA layout.")
    _refuse_code(path)
    for name in _NEEDED:
        if not (path / name).is_file():
            raise BadInput(f"model folder {path} has no {name}: save model, tokenizer and processor there.")
    kind = _parsed(path / "config.json").get("model_type")
    if kind != "llava":
        raise BadInput(f"{path / 'config.json'}: model_type is {kind!r}, but only 'llava' is supported.")
    for name in weight_files(path):
        _check_header(path / name)


def weight_files(path: Path) -> tuple[str, ...]:
    """The names of a checkpoint's weight files, with the index where the weights are sharded.

    Raises:
        BadInput: there are no safetensors, or a shard is missing.
    """
    if not (path / _INDEX).is_file():
        if not (path / _SINGLE).is_file():
            raise BadInput(f"model folder {path} has no {_SINGLE}: save the weights with safe_serialization.")
        return (_SINGLE,)
    shards = _parsed(path / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(_plain_name(name) for name in shards.values()):
        raise BadInput(f"{path / _INDEX}: weight_map must map tensors to files of the same folder.")
    for name in sorted(set(shards.values())):
        if not (path / name).is_file():
            raise BadInput(f"model folder {path} lacks the shard {name} that {_INDEX} names: copy it there.")
    return (_INDEX, *sorted(set(shards.values())))


def _refuse_code(path: Path) -> None:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in _PICKLES:
            raise BadInput(f"{file} is a pickle or may hold one: keep safetensors only and remove it.")
        if file.suffix.lower() == ".py":
            raise BadInput(f"{file} is code that would come with the model: remove it; only built-in models are run.")
        if file.suffix.lower() == ".json" and file.parent == path and "auto_map" in _parsed(file):
            raise BadInput(f"{file}: auto_map asks for remote code, which is never run: remove the field.")


def _check_header(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            empty = not tensors.keys()
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is no valid safetensors file ({error}): save the weights again.") from None
    if empty:
        raise BadInput(f"{path} holds no tensors: save the weights again.")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is not readable JSON ({error}): save it again.") from None
    return value if isinstance(value, dict) else {}


def _plain_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


AXIS = Model()
