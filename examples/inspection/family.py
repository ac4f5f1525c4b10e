"""The inspection family: four sizes of a tiny LLaVA-layout VLM (SigLIP sees, Llama speaks), tokenizer and folders."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

sys.path.insert(0, str(Path(__file__).parent))
import draw

PATCH = 8  # pixels
VISUAL_TOKENS = (draw.SIZE // PATCH) ** 2
PAD, BOS, EOS, UNK, IMAGE = SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
FIRST_ROWS = 128  # of the embedding in the first stage of training: special tokens and draw.words()
VOCABULARY = 192  # rows as published: with draw.SPARE_WORDS, filled up to a multiple of 64
MEAN = STD = 0.5  # of pixels scaled to 0..1
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}user : {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}assistant : {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths are multiples of 64 so that int4 groups and pruned FFNs fit; every attention head is 32 wide."""

    vision_width: int
    vision_layers: int
    vision_ffn: int
    text_width: int
    text_layers: int
    text_ffn: int


SIZES: dict[str, Size] = {
    "n": Size(vision_width=64, vision_layers=1, vision_ffn=128, text_width=64, text_layers=2, text_ffn=128),
    "s": Size(vision_width=128, vision_layers=2, vision_ffn=256, text_width=128, text_layers=2, text_ffn=256),
    "m": Size(vision_width=192, vision_layers=3, vision_ffn=512, text_width=192, text_layers=3, text_ffn=512),
    "l": Size(vision_width=256, vision_layers=3, vision_ffn=768, text_width=256, text_layers=4, text_ffn=768),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between blanks; the special tokens come first."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *draw.words(), *draw.SPARE_WORDS))}
    if len(vocabulary) > VOCABULARY or len(draw.words()) + len(SPECIAL) > FIRST_ROWS:
        raise ValueError(f"{len(vocabulary)} words do not fit into {VOCABULARY} rows")
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def config(size: Size, rows: int = VOCABULARY) -> LlavaConfig:
    """The LLaVA layout of a size: all visual tokens of the last layer, a key-value head for two heads, untied."""
    heads = size.text_width // 32
    ids = {token: index for index, token in enumerate(SPECIAL)}
    return LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=size.vision_width,
            intermediate_size=size.vision_ffn,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=size.vision_width // 32,
            image_size=draw.SIZE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=rows,
            hidden_size=size.text_width,
            intermediate_size=size.text_ffn,
            num_hidden_layers=size.text_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=False,
            pad_token_id=ids[PAD],
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
        ),
        image_token_index=ids[IMAGE],
        image_seq_length=VISUAL_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
    )


def build(size: Size, seed: int) -> LlavaForConditionalGeneration:
    """Fresh float32 weights for the first stage, the same for the same seed."""
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config(size, FIRST_ROWS)).float()


@torch.no_grad()
def widened(model: LlavaForConditionalGeneration, size: Size, seed: int) -> LlavaForConditionalGeneration:
    """The model with embedding and head grown to `VOCABULARY` rows, the new ones as freshly initialised."""
    torch.manual_seed(seed)
    wide = LlavaForConditionalGeneration(config(size)).float()
    for name, weight in model.state_dict().items():
        wide.state_dict()[name][: len(weight)] = weight
    return wide


def prompt_text(prompt: str) -> str:
    """What the chat template makes of one user message with one picture."""
    return f"{BOS}user : {IMAGE}\n{prompt} assistant :"


def normalised(pixels_BHWC: draw.Pixels) -> torch.Tensor:
    """8-bit RGB to the (B, 3, 64, 64) floats that the image processor gives."""
    pixels_BCHW = torch.from_numpy(np.array(pixels_BHWC)).permute(0, 3, 1, 2).float()
    return (pixels_BCHW / 255 - MEAN) / STD


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration,
    words: PreTrainedTokenizerFast,
    pixels_BHWC: draw.Pixels,
    prompts: list[str],
    batch: int = 64,
) -> list[str]:
    """Greedy answers, as deployed: the picture's tokens where the image token stands, at most 8 new tokens."""
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), batch):
        texts = [prompt_text(prompt).replace(IMAGE, IMAGE * VISUAL_TOKENS) for prompt in prompts[start : start + batch]]
        inputs = words(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        made = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=normalised(pixels_BHWC[start : start + batch]).to(model.dtype),
            max_new_tokens=8,
            do_sample=False,
        )
        answers += words.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """A published folder in float32; raises ValueError where its weights do not fit its configuration exactly."""
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise ValueError(f"{folder} did not load cleanly: {wrong}")
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def write_json(path: Path, content: Any) -> None:
    """Replaces the file in one step."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def save(model: LlavaForConditionalGeneration, folder: Path, training: dict[str, Any]) -> None:
    """Writes the model in half precision with all that transformers and openvino_genai need; swaps the folder in."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(part)
    tokenizer().save_pretrained(part, save_jinja_files=False)
    settings = json.loads((part / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    edge = {"height": draw.SIZE, "width": draw.SIZE}
    image_processor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": draw.SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": edge,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "image_size": draw.SIZE,
        "patch_size": PATCH,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": PATCH,
        "num_additional_image_tokens": 0,
        "vision_feature_select_strategy": "full",
    }
    for name, content in (
        ("preprocessor_config.json", image_processor),
        ("processor_config.json", processor),
        ("tokenizer_config.json", settings),
        ("training.json", training),
    ):
        write_json(part / name, content)
    (part / "model.safetensors").chmod(0o644)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    part.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
