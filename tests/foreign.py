"""LLaVA-layout checkpoints that the project did not make: random, of transformers' config defaults, saved by it alone.

What `save_pretrained` writes is kept as it is: one nested processor_config.json, a chat_template.jinja for lists of
parts or none, a tokenizer that adds its first token by itself, float32 weights in one file or several.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from spaces.axes import Samples
from spaces.axes.quiet import quiet
from spaces.sample import Sample

BuildForeign: TypeAlias = Callable[..., Path]
SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
WORDS = ("USER:", "ASSISTANT:", "what", "is", "this", "colour", "shape", "?", "red", "green", "blue", "ball", "box")
QUESTIONS = ("what colour is this ?", "is this red ?", "what shape is this ball ?", "is this blue ?")
LIST_TEMPLATE = (  # the form that llava-hf checkpoints come with
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (  # the form of llava-interleave-qwen, with a space where it has a line break
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ ' ' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def bpe_tokenizer() -> Any:
    """A byte-level BPE tokenizer that puts ``<s>`` before every text by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    first = [("<s>", 1)]
    words.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=first)
    return _fast(words)


def sentence_tokenizer(legacy: bool) -> Any:
    """A BPE tokenizer of Llama's form: spaces are letters, unknown bytes are tokens, ``<s>`` is added by itself.

    The ``legacy`` form puts a space before every piece between special tokens, the later one before the text alone.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=tokens, show_progress=False)
    words.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if legacy:
        words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        words = Tokenizer.from_str(json.dumps(json.loads(words.to_str()) | {"pre_tokenizer": None}))
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    words.decoder = decoders.Sequence(pieces)
    first = [("<s>", 1)]
    words.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=first)
    return _fast(words)


def word_tokenizer() -> Any:
    """A WordLevel tokenizer that adds nothing to a text, and names no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = dict.fromkeys((*SPECIAL, *(word.rstrip(":") for word in WORDS), ":"))
    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(plain)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return _fast(words, pad_token=None)


def _fast(words: Any, **fields: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    names: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, extra_special_tokens={"image_token": "<image>"}, **{**names, **fields}
    )


def text_config(kind: str, vocabulary: int, **fields: Any) -> Any:
    """Two layers of a text model with GQA and tied embeddings, its other fields as transformers sets them."""
    from transformers import CONFIG_MAPPING

    small: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.25,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return CONFIG_MAPPING[kind](**{**small, **fields})


def vision_config(kind: str, **fields: Any) -> Any:
    """Three layers of a vision tower: CLIP as LlavaConfig has it (336 px, patches of 14), SigLIP at 48 px."""
    from transformers import CONFIG_MAPPING

    small: dict[str, Any] = {"hidden_size": 40, "intermediate_size": 80, "num_hidden_layers": 3}
    small |= {"num_attention_heads": 4}
    sizes = {"image_size": 336, "patch_size": 14} if kind == "clip_vision_model" else {"image_size": 48}
    return CONFIG_MAPPING[kind](**{**small, **sizes, **fields})


def build_foreign(
    folder: Path,
    *,
    text: str = "llama",
    vision: str = "clip_vision_model",
    template: str | None = LIST_TEMPLATE,
    tokenizer: Any = None,
    processor: Any = None,
    text_fields: dict[str, Any] | None = None,
    vision_fields: dict[str, Any] | None = None,
    shard_size: str = "5GB",
    **config_fields: Any,
) -> Path:
    """Writes a checkpoint with `save_pretrained` of model and processor, and nothing else."""
    with quiet("transformers"):
        import torch
        from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        words = tokenizer or bpe_tokenizer()
        config = LlavaConfig(
            vision_config=vision_config(vision, **(vision_fields or {})),
            text_config=text_config(text, max(len(words), 64), **(text_fields or {})),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            **config_fields,
        )
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        side, clip = config.vision_config.image_size, vision == "clip_vision_model"
        if processor is None:
            square = {"height": side, "width": side}
            processor = (
                CLIPImageProcessorPil(size=side, crop_size=side) if clip else SiglipImageProcessorPil(size=square)
            )
        with torch.no_grad():  # the defaults hardly let an image through
            for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
                linear.weight.normal_(0, 0.3)
            bare = [len(word) == 1 or word[:3] == "<0x" for word in words.convert_ids_to_tokens(range(len(words)))]
            model.get_output_embeddings().weight[: len(words)][torch.tensor(bare)] *= 0.1  # bytes alone are no text
        model.half().float()  # numbers that an export in fp16 keeps
        model.save_pretrained(folder, max_shard_size=shard_size)
        LlavaProcessor(
            processor,
            words,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=int(clip),
            chat_template=template,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def foreign_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP at 336 px with class token and feature layer -2, a Llama with GQA and tied embeddings. Copy to change."""
    return build_foreign(tmp_path_factory.mktemp("foreign") / "clip")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four images that fit no tower: wide, tall, small and square, each of large coloured patches."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    paths = []
    for number, (height, width) in enumerate(((200, 320), (500, 340), (30, 40), (336, 336))):
        patches = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def foreign_samples(photographs: list[Path]) -> Samples:
    """Eight questions about the photographs, as the splits ``train`` and ``calibration``."""
    answers = ("red", "green", "blue ball", "box")
    rows = tuple(
        Sample(
            id=f"{number}-{place}",
            image=photographs[number],
            question=QUESTIONS[(number + place) % 4],
            answers=(answers[number],),
        )
        for place in range(2)
        for number in range(4)
    )
    return {"train": rows, "calibration": rows}
