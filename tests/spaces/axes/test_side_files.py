import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spaces.axes.chat import TextForm
from spaces.axes.layout import Layout
from spaces.axes.model import AXIS, check_model_folder
from spaces.axes.side_files import (
    PROCESSOR_DEFAULTS,
    canonical_config,
    canonical_generation,
    canonical_images,
    canonical_processor,
)
from spaces.errors import BadInput, StageFailed
from spaces.fitting import Fit, fitted, normalised

FORM = TextForm(template="", end_id=2, pad="<pad>", pad_id=0, padded=True)
CLIP = {"image_processor_type": "CLIPImageProcessor"}
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}


def linked(source: Path, target: Path) -> set[str]:
    inodes = {path.stat().st_ino for path in source.iterdir()}
    return {path.name for path in target.iterdir() if path.stat().st_ino in inodes}


def model_stage(source: Path, target: Path, image_size: int = 0) -> Path:
    target.mkdir()
    AXIS.apply({"path": str(source), "image_size": image_size}, source, target, {}, 0)
    return target


def test_the_projects_own_form_is_linked_byte_for_byte(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = model_stage(tiny_checkpoint, tmp_path / "target")
    assert linked(tiny_checkpoint, target) == {path.name for path in tiny_checkpoint.iterdir()}


def test_a_foreign_checkpoint_gets_the_form_and_keeps_its_weights(foreign_checkpoint: Path, tmp_path: Path) -> None:
    assert not (foreign_checkpoint / "preprocessor_config.json").exists()
    target = model_stage(foreign_checkpoint, tmp_path / "target")
    assert linked(foreign_checkpoint, target) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (target / "chat_template.jinja").exists()
    images, processor = (json.loads((target / f"{n}_config.json").read_text()) for n in ("preprocessor", "processor"))
    assert (images["size"], images["crop_size"]) == ({"shortest_edge": 336}, {"height": 336, "width": 336})
    assert (images["image_size"], images["patch_size"]) == (336, 14)
    assert "image_processor" not in processor
    again = model_stage(target, tmp_path / "again")
    assert linked(target, again) == {path.name for path in target.iterdir()}


def test_transformers_lays_out_as_many_places_as_the_tower_gives(foreign_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    target = model_stage(foreign_checkpoint, tmp_path / "target")
    image = Image.new("RGB", (400, 300))
    theirs = AutoProcessor.from_pretrained(target)(images=[image], text=["<image>\nwhat"], return_tensors="np")
    assert (theirs["input_ids"] == 3).sum() == 576
    assert theirs["pixel_values"].shape == (1, 3, 336, 336)


@pytest.mark.parametrize("kind", list(PROCESSOR_DEFAULTS))
def test_processor_defaults_are_those_of_transformers(kind: str) -> None:
    import importlib

    name = kind.removesuffix("ImageProcessor").lower()
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    theirs = json.loads(getattr(module, f"{kind}Pil")().to_json_string())
    ours = PROCESSOR_DEFAULTS[kind]
    assert all(np.allclose(value, theirs[name]) for name, value in ours.items() if name.startswith("image_"))
    assert dict(ours["size"]) == theirs["size"]
    assert ours["do_center_crop"] == bool(theirs.get("do_center_crop"))


@pytest.mark.parametrize(
    ("fields", "side", "resized_to"),
    [
        (CLIP | {"size": 336, "crop_size": 336}, 336, 0),
        (CLIP | {"size": {"shortest_edge": 80}, "crop_size": 56, "resample": 2}, 56, 0),
        (CLIP | {"image_processor_type": "CLIPImageProcessorFast"}, 224, 0),
        (SIGLIP | {"size": {"height": 48, "width": 48}}, 48, 0),
        (SIGLIP | {"size": 48}, 48, 64),
        (CLIP | {"size": {"height": 96, "width": 64}, "crop_size": {"height": 48, "width": 48}}, 48, 24),
    ],
)
def test_transformers_and_the_device_make_the_same_pixels(
    fields: dict[str, Any], side: int, resized_to: int, photographs: list[Path], tmp_path: Path
) -> None:
    images = canonical_images(fields, side, 8, resized_to)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    fit, target = Fit.read(tmp_path), resized_to or side
    assert images.get("size.shortest_edge", images["size"].get("shortest_edge")) == target
    for path in photographs:
        ours = normalised([fitted(np.asarray(Image.open(path)), fit)], fit)
        assert ours.shape == (1, 3, target, target)
        np.testing.assert_allclose(ours, Layout(tmp_path).pixels([path]), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor', but only CLIPImageProcessor"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True}, "do_pad True, but only False"),
        (CLIP | {"do_resize": False}, "do_resize False"),
        (CLIP | {"rescale_factor": 0.5}, r"rescale_factor 0\.5"),
        (CLIP | {"size": 336, "crop_size": 336}, "vision tower takes 224 x 224"),
        (CLIP | {"size": 112}, "height 224 and width 224 of shortest_edge 112"),
        (CLIP | {"do_center_crop": False}, "shortest_edge 224 of shortest_edge 224"),
        (CLIP | {"size": {"longest_edge": 224}}, "give shortest_edge"),
    ],
)
def test_a_processor_that_the_deployed_path_does_not_follow_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        canonical_images(fields, 224, 14)


def test_a_processor_that_does_not_fit_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": 8}))
    with pytest.raises(BadInput, match=f"model folder {folder}: the image processor gives height 8"):
        check_model_folder(folder)


def test_the_processor_counts_as_the_model_does() -> None:
    for kind, extra in (("clip_vision_model", 1), ("siglip_vision_model", 0)):
        config = {"vision_config": {"model_type": kind, "patch_size": 14}, "vision_feature_select_strategy": "full"}
        made = canonical_processor({"image_processor": {}, "chat_template": "", "kept": 1}, config)
        assert made == {
            "kept": 1,
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": 14,
            "num_additional_image_tokens": extra,
            "vision_feature_select_strategy": "full",
        }


def test_a_sparse_config_is_filled_in_and_a_wrong_count_mended(foreign_checkpoint: Path, tmp_path: Path) -> None:
    whole = json.loads((foreign_checkpoint / "config.json").read_text())
    assert canonical_config(foreign_checkpoint) == whole
    sparse = json.loads(json.dumps(whole)) | {"image_seq_length": 9}
    del sparse["text_config"]["num_hidden_layers"], sparse["vision_config"]["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    made = canonical_config(tmp_path)
    assert (made["image_seq_length"], made["text_config"]["num_hidden_layers"]) == (576, 32)
    assert made["vision_config"]["model_type"] == "clip_vision_model"


def test_answers_end_with_the_tokenizers_end_token_and_decoding_is_greedy() -> None:
    own = {"eos_token_id": 2, "pad_token_id": 0, "use_cache": True}
    assert canonical_generation(own, FORM) == own
    assert canonical_generation({}, FORM) == {"eos_token_id": 2, "pad_token_id": 0}
    made = canonical_generation({"eos_token_id": [7, 8], "repetition_penalty": 1.1, "temperature": 0.2}, FORM)
    assert made == {"eos_token_id": [7, 8, 2], "pad_token_id": 0}
    assert canonical_generation({"eos_token_id": 7}, FORM)["eos_token_id"] == [7, 2]


def test_a_template_that_cannot_be_used_fails_the_stage(foreign_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(foreign_checkpoint, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(StageFailed, match="one image before each question"):
        model_stage(folder, tmp_path / "target")
