import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spaces.axes.checkpoint import load_strict
from spaces.axes.pruning import AXIS, SHARES
from spaces.axes.pruning_parts import ffns, heads
from spaces.errors import StageFailed
from tests.spaces.axes.conftest import Apply, contents, full_choice
from tests.spaces.axes.variants import write_variant


def test_the_strongest_channels_stay_in_order_and_the_rest_is_untouched(tiny_checkpoint: Path, apply: Apply) -> None:
    pruned = apply(AXIS, tiny_checkpoint, ffn=0.5)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, pruned))
    layers = sorted({name.rsplit(".mlp.", 1)[0] for name in before if "language_model" in name and ".mlp." in name})
    assert len(layers) == 2
    for layer in layers:
        gate, up, down = (
            before[f"{layer}.mlp.{part}_proj.weight"].astype(np.float64) for part in ("gate", "up", "down")
        )
        scores = [
            np.sqrt(sum(gate[channel] ** 2)) * np.sqrt(sum(up[channel] ** 2)) * np.sqrt(sum(down[:, channel] ** 2))
            for channel in range(128)
        ]
        strongest = sorted(sorted(range(128), key=lambda channel: -scores[channel])[:64])
        for part, expected in (("gate", gate[strongest]), ("up", up[strongest]), ("down", down[:, strongest])):
            assert np.array_equal(after[f"{layer}.mlp.{part}_proj.weight"], expected.astype(np.float16))
    others = [name for name in before if not ("language_model" in name and ".mlp." in name)]
    assert all(np.array_equal(before[name], after[name]) for name in others)
    assert json.loads((pruned / "config.json").read_text())["text_config"]["intermediate_size"] == 64


def test_a_pruned_checkpoint_loads_strictly_and_is_the_same_twice(tiny_checkpoint: Path, apply: Apply) -> None:
    once, again = (apply(AXIS, tiny_checkpoint, name, ffn=0.5) for name in ("once", "again"))
    assert load_strict(once).model.language_model.layers[0].mlp.down_proj.weight.shape == (64, 64)
    assert contents(once) == contents(again)


def test_it_changes_and_reads_only_what_it_must() -> None:
    nothing = full_choice(AXIS, {"importance": "activations"})
    assert not AXIS.changes(nothing)
    assert AXIS.reads(nothing) == ()
    assert AXIS.domains["importance"].unless_all == dict.fromkeys(SHARES, (0.0,))
    for knob in SHARES:
        assert AXIS.changes({**nothing, knob: 0.1})
        assert AXIS.reads({**nothing, knob: 0.1}) == ("calibration",)
        assert AXIS.reads({**nothing, knob: 0.1, "importance": "weights"}) == ()


def test_one_key_value_head_stays_and_query_heads_go(tiny_checkpoint: Path, apply: Apply) -> None:
    pruned = apply(AXIS, tiny_checkpoint, heads=0.5)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, pruned))
    text = json.loads((pruned / "config.json").read_text())["text_config"]
    assert (text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]) == (1, 1, 32)
    for layer in load_strict(pruned).model.language_model.layers:
        prefix = f"model.language_model.model.layers.{layer.self_attn.layer_idx}.self_attn"
        out = np.split(before[f"{prefix}.o_proj.weight"].astype(np.float64), 2, axis=1)
        best = int(np.linalg.norm(out[1]) > np.linalg.norm(out[0]))
        query = np.split(before[f"{prefix}.q_proj.weight"], 2, axis=0)
        assert np.array_equal(after[f"{prefix}.o_proj.weight"], out[best].astype(np.float16))
        assert np.array_equal(after[f"{prefix}.q_proj.weight"], query[best])
        for name in ("k_proj", "v_proj"):
            assert np.array_equal(after[f"{prefix}.{name}.weight"], before[f"{prefix}.{name}.weight"])


def test_a_layer_type_moves_with_its_layer(tiny_checkpoint: Path, tmp_path: Path, apply: Apply) -> None:
    source = write_variant(tmp_path / "source", tiny_checkpoint, "clip-qwen2")
    weights = load_file(source / "model.safetensors")
    for name in weights:
        if ".layers.1." in name and "language_model" in name:
            weights[name] = weights[name] * np.float16(0.1)
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    pruned = apply(AXIS, source, layers=0.4)
    text = json.loads((pruned / "config.json").read_text())["text_config"]
    assert (text["num_hidden_layers"], text["layer_types"]) == (2, ["sliding_attention", "full_attention"])
    after = load_file(pruned / "model.safetensors")
    old, new = (f"model.language_model.model.layers.{layer}.mlp.down_proj.weight" for layer in (2, 1))
    assert np.array_equal(after[new], weights[old])


def test_every_depth_that_is_read_stays_read(tiny_checkpoint: Path, tmp_path: Path, apply: Apply) -> None:
    for kind, index in (("siglip-llama", -2), ("clip-qwen2", 1)):
        source = write_variant(tmp_path / kind, tiny_checkpoint, kind)
        pruned = apply(AXIS, source, f"pruned-{kind}", vision_layers=0.9)
        config = json.loads((pruned / "config.json").read_text())
        assert (config["vision_config"]["num_hidden_layers"], config["vision_feature_layer"]) == (2, index)


def test_tied_embeddings_stay_tied(tiny_checkpoint: Path, tmp_path: Path, apply: Apply) -> None:
    source = write_variant(tmp_path / "source", tiny_checkpoint, "siglip-llama")
    model = load_strict(apply(AXIS, source, ffn=0.5, heads=0.5, layers=0.5))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(model.model.language_model.layers) == 2


def test_an_architecture_that_would_not_load_is_refused(
    tiny_checkpoint: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spaces.axes.pruning.pruned_shape", lambda *_: {"heads": 1, "kv_heads": 1, "head_dim": 16})
    with pytest.raises(StageFailed, match=r"_proj.weight cannot be pruned so"):
        apply(AXIS, tiny_checkpoint, heads=0.5)
    monkeypatch.setattr("spaces.axes.pruning.pruned_shape", lambda *_: {"heads": 3, "kv_heads": 3, "head_dim": 32})
    with pytest.raises(StageFailed, match=r"llama does not load when pruned so: .*not a multiple"):
        apply(AXIS, tiny_checkpoint, "other", heads=0.5)


def test_activations_need_calibration_samples(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="split `calibration`"):
        AXIS.apply(full_choice(AXIS, {"ffn": 0.5, "importance": "activations"}), tiny_checkpoint, tmp_path, {}, 0)


def test_other_modules_are_refused_by_name() -> None:
    class Block:
        mlp = self_attn = None

    with pytest.raises(StageFailed, match=r"FFNs .*not NoneType"):
        ffns([Block()])
    with pytest.raises(StageFailed, match=r"attention .*not NoneType"):
        heads([Block()])
