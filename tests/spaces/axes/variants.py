"""Small random checkpoints of other architectures than the tiny one's, and the logits that a checkpoint gives."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spaces.axes.checkpoint import load_strict

TEXT = f"<bos>user : {'<image>' * 4}\nwhat colour is this ? assistant : {{answer}}<eos>"


def write_variant(folder: Path, tiny_checkpoint: Path, kind: str) -> Path:
    """``siglip-llama``: pooling head, GQA, tied embeddings, the last vision layer unread.

    ``clip-qwen2``: class token, features after vision layer 2 of 3, biases, 5 heads of 16 in a width of 80, and a
    sliding window in the first text layer alone.
    """
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sides = {"image_size": 16, "patch_size": 8, "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 64}
    text: Any
    if kind == "siglip-llama":
        vision: Any = SiglipVisionConfig(**sides, intermediate_size=128, vision_use_head=True)
        text = LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            initializer_range=0.2,
            tie_word_embeddings=True,
            **ids,
        )
    else:
        vision = CLIPVisionConfig(**sides, intermediate_size=192, initializer_range=0.2)
        text = Qwen2Config(
            vocab_size=64,
            hidden_size=80,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=5,
            num_key_value_heads=5,
            initializer_range=0.2,
            use_sliding_window=True,
            sliding_window=3,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            tie_word_embeddings=False,
            **ids,
        )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=4,
        image_seq_length=4,
        vision_feature_layer=-2 if kind == "siglip-llama" else 2,
        vision_feature_select_strategy="full" if kind == "siglip-llama" else "default",
        tie_word_embeddings=kind == "siglip-llama",
        **ids,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.2)
    shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.half().save_pretrained(folder)
    return folder


def run(model: Any, folder: Path, image: Path, answer: str) -> Any:
    """The logits of prompt and answer, (position, word), through transformers' own tokenizer and forward pass."""
    import torch
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXT.format(answer=answer), add_special_tokens=False)["input_ids"]
    pixels = torch.from_numpy(np.asarray(Image.open(image), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].numpy()


def logits(folder: Path, images: list[Path]) -> Any:
    model = load_strict(folder)
    return np.concatenate([run(model, folder, image, "red") for image in images])


def visual_tokens(folder: Path, pixels: Any) -> Any:
    """The (image, token, width) features of a torch checkpoint."""
    import torch

    with torch.no_grad():
        features = load_strict(folder).get_image_features(pixel_values=torch.from_numpy(pixels), return_dict=True)
    return torch.stack(list(features.pooler_output)).numpy()
