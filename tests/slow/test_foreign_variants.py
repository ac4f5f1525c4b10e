"""More checkpoints that the project did not make: each answers alike under torch and openvino, and as int8 it runs."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.ask import ask
from hardware_profiles.bundle import Execution, seal
from search.parity import check_parity
from spaces.axes import Axis, Samples, Value, model, quantization, runtime, visual_tokens
from spaces.axes.files import read_json
from spaces.axes.quiet import quiet
from spaces.prompting import Prompt
from tests.foreign import CHATML, bpe_tokenizer, build_foreign, sentence_tokenizer, word_tokenizer

SIGLIP: dict[str, Any] = {"vision": "siglip_vision_model"}
SMALL: dict[str, Any] = {"vision_fields": {"image_size": 56}}
LLAMA = partial(sentence_tokenizer, legacy=True)


def cropping() -> Any:
    """A processor that resizes beyond the tower's size and crops, bilinearly."""
    with quiet("transformers"):
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size=80, crop_size=56, resample=2)


VARIANTS: dict[str, dict[str, Any]] = {
    "llama with one head a key, untied, in several files": SMALL
    | {"text_fields": {"num_key_value_heads": 6, "tie_word_embeddings": False}, "shard_size": "200KB"},
    "mistral with one key head, whole features": SMALL
    | {"text": "mistral", "text_fields": {"num_key_value_heads": 1}, "vision_feature_select_strategy": "full"},
    "qwen2 with a template of its own kind": SMALL | {"text": "qwen2", "template": CHATML},
    "siglip without head, a word tokenizer, no template": SIGLIP
    | {"vision_fields": {"patch_size": 12, "vision_use_head": False}, "template": None, "tokenizer": word_tokenizer},
    "siglip with patches of 6, last layer, whole features": SIGLIP
    | {"vision_fields": {"patch_size": 6}, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "a processor that crops": SMALL | {"processor": cropping},
    "a tokenizer of llama's form": SMALL | {"tokenizer": LLAMA},
    "llama with biases and heads of another width": SMALL
    | {"text_fields": {"attention_bias": True, "mlp_bias": True, "head_dim": 24}},
    "another resolution": SMALL | {"image_size": 84, "tokenizer": bpe_tokenizer},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_of_other_makers_answers_alike(name: str, foreign_samples: Samples, tmp_path: Path) -> None:
    settings = dict(VARIANTS[name])
    size = settings.pop("image_size", 0)
    for made in {"tokenizer", "processor"} & set(settings):
        settings[made] = settings[made]()
    source = build_foreign(tmp_path / "source", **settings)

    def stage(axis: Axis, given: Path, folder: str, **choice: Value) -> Path:
        target = tmp_path / folder
        target.mkdir()
        defaults = {knob: domain.default for knob, domain in axis.domains.items()}
        axis.apply({**defaults, **choice}, given, target, {}, 0)
        return target

    checkpoint = stage(model.AXIS, source, "checkpoint", path=str(source), image_size=size)
    export = stage(runtime.AXIS, checkpoint, "export")
    assert check_parity(checkpoint, export, "openvino", foreign_samples["calibration"], 6)["parity_equal"] == 8
    fewer = stage(visual_tokens.AXIS, export, "fewer", keep=0.5)
    deployed = stage(quantization.AXIS, fewer, "deployed", weights="int8")
    assert read_json(deployed / "config.json")["image_seq_length"] > 1
    seal(
        deployed,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=6,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    for row in foreign_samples["calibration"][:2]:
        assert len(ask(deployed, row.image, row.question, {}).token_ms) > 0
