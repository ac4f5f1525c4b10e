"""Fixtures that every room may use: a tiny random LLaVA checkpoint and its OpenVINO export, made once a session."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest_plugins = (
    "tests.door",
    "tests.project",
    "tests.foreign",
    "tests.boards",
    "tests.servers",
    "tests.faults.agent_bench",
)

IMAGE_SIDE = 16
PATCH = 8
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
WORDS = ("user", "assistant", ":", "what", "is", "this", "colour", "shape", "?", "red", "green", "blue", "ball", "box")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}user : {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder, save_jinja_files=False)


def _write_processors(folder: Path) -> None:
    shared = {"processor_class": "LlavaProcessor", "patch_size": PATCH}
    images = shared | {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIDE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_size": IMAGE_SIDE,
    }
    layout = {"image_token": "<image>", "num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(shared | layout))


def _write_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            initializer_range=0.1,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        **ids,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[ids["eos_token_id"]] *= 3  # so that answers differ in length
    model.half().save_pretrained(folder)


@pytest.fixture(autouse=True)
def quiet_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs where the tests run does not spoil what they measure; the tests of just that want it to."""
    if "tests/faults" not in str(request.path) and "test_verdicts" not in str(request.path):
        monkeypatch.setattr("hardware_profiles.agent.verdicts.MOST_FOREIGN", 1e9)
        monkeypatch.setattr("hardware_profiles.agent.verdicts.FOREIGN_SHARE", 1e9)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA checkpoint (fp16, 16 px, 4 visual tokens) as a Hugging Face folder. Copy it to change it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    _write_model(folder)
    _write_tokenizer(folder)
    _write_processors(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_openvino(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` exported for openvino_genai in fp16, by the product's own export. Copy it to change it."""
    from spaces.axes.runtime import Runtime

    folder = tmp_path_factory.mktemp("exports") / "tiny"
    folder.mkdir()
    axis = Runtime()
    axis.apply({knob: domain.default for knob, domain in axis.domains.items()}, tiny_checkpoint, folder, {}, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight small PNG images of noise, 16 px a side."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(8)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)).save(path)
    return paths
