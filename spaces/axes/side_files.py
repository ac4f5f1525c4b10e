"""The JSON files beside the weights, in the one form that every later stage and runtime reads."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spaces.axes.chat import TextForm, text_form
from spaces.axes.files import SIDE_FILES, link_all, read_json, write_json
from spaces.axes.quiet import quiet
from spaces.axes.tensors import class_tokens, vision_config, visual_token_count
from spaces.errors import BadInput

_CLIP = {
    "do_center_crop": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP = {
    "do_center_crop": False,
    "size": {"height": 224, "width": 224},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
PROCESSOR_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"CLIPImageProcessor": _CLIP, "LlavaImageProcessor": _CLIP, "SiglipImageProcessor": _SIGLIP}
)
"""Fields of the image processors that are supported, as transformers fills them in where they are left out."""
_FIXED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": False, "rescale_factor": 1 / 255}
_DECODING = {"do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "num_beams", "repetition_penalty"}
_DECODING |= {"no_repeat_ngram_size", "length_penalty", "max_length", "max_new_tokens", "min_length"}
_GENAI_EDGE = "size.shortest_edge"
_FAMILY_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def image_fields(folder: Path) -> dict[str, Any]:
    """How the checkpoint wants its images: the processor file's own part before ``preprocessor_config.json``."""
    nested = read_json(folder / "processor_config.json").get("image_processor")
    return dict(nested or read_json(folder / "preprocessor_config.json"))


def canonical_images(fields: Mapping[str, Any], side: int, patch: int, resized_to: int = 0) -> dict[str, Any]:
    """The content of ``preprocessor_config.json`` for a tower that takes ``side`` pixels with patches of ``patch``.

    transformers and vlmfront read ``size`` and ``crop_size``. openvino_genai resizes the image that it is handed to
    ``size.shortest_edge`` and crops it to ``crop_size``; it is handed an image that fits, and where the shorter side
    before the crop is another, a field of that very name (with the dot) tells it alone.

    ``resized_to`` is another resolution, in pixels, that the tower is brought to; 0 for ``side`` itself.

    Raises:
        BadInput: the processor is of another kind, or does what the deployed path does not.
    """
    kind = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "CLIPImageProcessor")
    kind = kind.removesuffix("Pil").removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSOR_DEFAULTS:
        listed = ", ".join(PROCESSOR_DEFAULTS)
        raise BadInput(f"the image processor is {kind!r}, but only {listed} are supported: save another.")
    whole = {**PROCESSOR_DEFAULTS[kind], **{name: one for name, one in fields.items() if one is not None}}
    for name, value in _FIXED.items():
        given = whole.get(name, value)
        if given != value and abs(float(given) - value) > 1e-9:
            raise BadInput(f"the image processor has {name} {given!r}, but only {value!r} is supported: change it.")
    size = _sizes(whole["size"], square=kind == "SiglipImageProcessor")
    crop = _sizes(whole["crop_size"], square=True) if whole["do_center_crop"] else dict(size)
    if crop != {"height": side, "width": side} or min(size.values()) < side:
        raise BadInput(
            f"the image processor gives {_shape(crop)} of {_shape(size)}, but the vision tower takes {side} x {side} "
            "pixels: set size and crop_size to that."
        )
    target = resized_to or side
    size = {name: round(pixels * target / side) for name, pixels in size.items()}
    genai = {"crop_size": {"height": target, "width": target}, "image_size": target, "patch_size": patch}
    if size != {"shortest_edge": target}:
        genai[_GENAI_EDGE] = target
    return {**whole, "image_processor_type": kind, "size": size, **genai}


def canonical_processor(fields: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``processor_config.json``: how many places an image takes, so that transformers agrees."""
    vision = vision_config(config)
    kept = {name: one for name, one in fields.items() if name not in ("image_processor", "chat_template")}
    return kept | {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": int(vision["patch_size"]),
        "num_additional_image_tokens": class_tokens(vision),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
    }


def canonical_config(folder: Path, resized_to: int = 0) -> dict[str, Any]:
    """The content of ``config.json``, with what transformers would fill in and the number of visual tokens as it is."""
    config: dict[str, Any] = read_json(folder / "config.json")
    parts = (config.get("text_config") or {}, config.get("vision_config") or {})
    if not all(name in part for part in parts for name in ("model_type", *_FAMILY_FIELDS)):
        with quiet("transformers"):
            from transformers import LlavaConfig

            filled = LlavaConfig.from_pretrained(folder, local_files_only=True).to_dict()
        config = {**filled, "architectures": ["LlavaForConditionalGeneration"]}
    vision = {**config["vision_config"]}
    vision = {**vision_config(config), **vision} if "image_size" not in vision or "patch_size" not in vision else vision
    if resized_to:
        vision["image_size"] = resized_to
    config = {**config, "vision_config": vision}
    return config | {"image_seq_length": visual_token_count(config)}


def canonical_generation(fields: Mapping[str, Any], text: TextForm) -> dict[str, Any]:
    """The content of ``generation_config.json``: greedy decoding, and the tokenizer's end token ends an answer too."""
    kept = {name: value for name, value in fields.items() if name not in _DECODING}
    ends = kept.get("eos_token_id")
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if text.end_id not in known:
        kept["eos_token_id"] = [*known, text.end_id] if known else text.end_id
    return kept if kept.get("pad_token_id") is not None else kept | {"pad_token_id": text.pad_id}


def write_side_files(folder: Path, target: Path, resized_to: int = 0) -> None:
    """Links the files of the checkpoint that are in this form already, and writes the others.

    ``resized_to`` is as for `canonical_images`.

    Raises:
        BadInput: as `canonical_images`.
        StageFailed: as `spaces.axes.chat.text_form`.
    """
    link_all(folder, target, (name for name in SIDE_FILES if not name.startswith("chat_template")))
    config = canonical_config(folder, resized_to)
    vision = vision_config(read_json(folder / "config.json"))
    text = text_form(folder, int(config.get("image_token_index", config.get("image_token_id", -1))))
    words = read_json(folder / "tokenizer_config.json")
    pad = {} if text.padded else {"pad_token": text.pad}
    wanted = {
        "config.json": config,
        "preprocessor_config.json": canonical_images(
            image_fields(folder), int(vision["image_size"]), int(vision["patch_size"]), resized_to
        ),
        "processor_config.json": canonical_processor(read_json(folder / "processor_config.json"), config),
        "tokenizer_config.json": {**words, **pad, "chat_template": text.template},
        "generation_config.json": canonical_generation(read_json(folder / "generation_config.json"), text),
    }
    for name, value in wanted.items():
        if value != read_json(folder / name):
            write_json(target / name, value)


def _sizes(value: Any, *, square: bool) -> dict[str, int]:
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    sizes = {name: int(pixels) for name, pixels in dict(value).items() if pixels is not None}
    if set(sizes) not in ({"shortest_edge"}, {"height", "width"}):
        raise BadInput(f"the image processor has the size {value!r}: give shortest_edge, or height and width.")
    return sizes


def _shape(sizes: Mapping[str, int]) -> str:
    return " and ".join(f"{name} {pixels}" for name, pixels in sizes.items())
