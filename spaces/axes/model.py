"""The axis of the model: which checkpoint a candidate starts from, and the resolution of its images."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import link_all
from spaces.axes.resolution import resize_weights, resizing_problem
from spaces.axes.side_files import canonical_images, image_fields, write_side_files
from spaces.axes.tensors import check_index, check_tensors, text_config, vision_config
from spaces.errors import BadInput, StageFailed

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Model:
    """Knobs ``path``, a folder in the Hugging Face LLaVA layout, and ``image_size``, the resolution of its images.

    ``apply`` gives every checkpoint one form: image processor, chat template and sizes where all later stages and
    runtimes read them. Files that are in this form, and the weights, are linked. With ``image_size`` the vision tower's
    position embeddings are resized, see `spaces.axes.resolution`.
    """

    name = "model"
    version = 2
    tools: tuple[str, ...] = ("transformers", "tokenizers", "safetensors")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "path": Domain(kind="text", default="", help="folder of a checkpoint in LLaVA layout"),
            "image_size": Domain(
                kind="int", default=0, low=0, high=4096, help="side of the images in pixels; 0 as the checkpoint has it"
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:  # noqa: ARG002
        return True

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Writes what a load needs of the checkpoint ``source / path`` (an absolute path stands alone).

        Raises:
            BadInput: as `check_model_folder`.
            StageFailed: the tower cannot take images of ``image_size``, or the chat template cannot be used.
        """
        folder = source / str(choice["path"])
        check_model_folder(folder)
        size = int(choice.get("image_size", 0))
        if problem := check_image_size(folder, size):
            raise StageFailed(problem)
        write_side_files(folder, target, size)
        link_all(folder, target, weight_files(folder))
        if size:
            resize_weights(target, size)


def check_image_size(folder: Path, size: int) -> str | None:
    """Why the checkpoint cannot take images of ``size`` pixels, with the nearest size that it can; null where it can.

    Reads config.json alone. 0 stands for the size that the checkpoint has.

    Raises:
        BadInput: config.json cannot be read, or has a vision tower that is not supported.
    """
    return resizing_problem(vision_config(_parsed(folder / "config.json")), size) if size else None


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
    config = _parsed(path / "config.json")
    kind = config.get("model_type")
    if kind != "llava":
        raise BadInput(f"{path / 'config.json'}: model_type is {kind!r}, but only 'llava' is supported.")
    if "quantization_config" in config:
        raise BadInput(f"{path / 'config.json'}: the weights are quantized: give the checkpoint before quantization.")
    try:
        _check_config(path, config)
        check_tensors(path, config, [path / name for name in weight_files(path) if name != _INDEX])
        if (path / _INDEX).is_file():
            check_index(path / _INDEX, _parsed(path / _INDEX)["weight_map"])
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BadInput(
            f"model folder {path}: config.json or the processor's file has a field of the wrong kind ({error})."
        ) from None


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    fields = image_fields(path)
    if not fields:
        raise BadInput(f"model folder {path} has no preprocessor_config.json: save the processor there.")
    try:
        text_config(config)
        vision = vision_config(config)
        layer, layers = config.get("vision_feature_layer", -2), int(vision["num_hidden_layers"])
        if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
            raise BadInput(f"config.json: vision_feature_layer {layer!r} is not one layer of the tower's {layers}.")
        canonical_images(fields, int(vision["image_size"]), int(vision["patch_size"]))
    except BadInput as error:
        raise BadInput(f"model folder {path}: {error}") from None


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


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is not readable JSON ({error}): save it again.") from None
    return value if isinstance(value, dict) else {}


def _plain_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


AXIS = Model()
