"""Writes a random LLaVA 1.5 as GGUF: ``tiny_gguf.py FOLDER``. Needs the packages gguf and numpy alone.

Names of keys and tensors: llama.cpp, docs of GGUF and gguf-py/gguf/constants.py; the projector is that of LLaVA 1.5.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, FFN, LAYERS, HEADS, SIDE, PATCH = 64, 128, 2, 4, 32, 8
WORDS = ("red", "green", "blue", "ball", "box", "what", "is", "this")

rng = np.random.default_rng(0)


def random(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return (rng.standard_normal(shape) * 0.2).astype(np.float32)


def ones(size: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.ones(size, np.float32)


def language(path: Path) -> None:
    """A Llama with a SentencePiece vocabulary of bytes and a few words."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *("▁" + word for word in WORDS)]
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * (len(WORDS) + 1)]
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FFN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores([0.0] * 259 + [-float(place) for place in range(len(tokens) - 259)])
    file.add_token_types(kinds)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")
    file.add_tensor("token_embd.weight", random(len(tokens), WIDTH))
    file.add_tensor("output.weight", random(len(tokens), WIDTH) * 5)
    file.add_tensor("output_norm.weight", ones(WIDTH))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        file.add_tensor(f"{block}.attn_norm.weight", ones(WIDTH))
        file.add_tensor(f"{block}.ffn_norm.weight", ones(WIDTH))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            file.add_tensor(f"{block}.{name}.weight", random(WIDTH, WIDTH))
        file.add_tensor(f"{block}.ffn_gate.weight", random(FFN, WIDTH))
        file.add_tensor(f"{block}.ffn_up.weight", random(FFN, WIDTH))
        file.add_tensor(f"{block}.ffn_down.weight", random(WIDTH, FFN))
    _write(file)


def vision(path: Path) -> None:
    """A CLIP tower with the two-layer projector."""
    file = gguf.GGUFWriter(path, "clip")
    file.add_type("mmproj")
    file.add_bool("clip.has_vision_encoder", True)
    file.add_string("clip.projector_type", "mlp")
    file.add_bool("clip.use_gelu", False)
    for name, value in {
        "image_size": SIDE,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": FFN,
        "projection_dim": WIDTH,
        "block_count": LAYERS,
        "attention.head_count": HEADS,
    }.items():
        file.add_uint32(f"clip.vision.{name}", value)
    file.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    file.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    file.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    file.add_tensor("v.class_embd", random(WIDTH))
    file.add_tensor("v.patch_embd.weight", random(WIDTH, 3, PATCH, PATCH))
    file.add_tensor("v.position_embd.weight", random((SIDE // PATCH) ** 2 + 1, WIDTH))
    _affine(file, "v.pre_ln")
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        _affine(file, f"{block}.ln1")
        _affine(file, f"{block}.ln2")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            _linear(file, f"{block}.{name}", WIDTH, WIDTH)
        _linear(file, f"{block}.ffn_up", FFN, WIDTH)
        _linear(file, f"{block}.ffn_down", WIDTH, FFN)
    _linear(file, "mm.0", WIDTH, WIDTH)
    _linear(file, "mm.2", WIDTH, WIDTH)
    _write(file)


def _affine(file: gguf.GGUFWriter, name: str) -> None:
    file.add_tensor(f"{name}.weight", ones(WIDTH))
    file.add_tensor(f"{name}.bias", random(WIDTH))


def _linear(file: gguf.GGUFWriter, name: str, out: int, width: int) -> None:
    file.add_tensor(f"{name}.weight", random(out, width))
    file.add_tensor(f"{name}.bias", random(out))


def _write(file: gguf.GGUFWriter) -> None:
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


if __name__ == "__main__":
    language(Path(sys.argv[1], "tiny.gguf"))
    vision(Path(sys.argv[1], "mmproj-tiny.gguf"))
