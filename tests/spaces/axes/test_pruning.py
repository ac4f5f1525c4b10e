import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from spaces.axes.checkpoint import load_strict
from spaces.axes.pruning import AXIS
from spaces.axes.pruning_shape import kept_width
from tests.spaces.axes.conftest import Apply, contents


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


@given(units=st.integers(1, 64), share=st.floats(0, 0.9))
def test_kept_widths_are_multiples_of_64_within_half_a_unit(units: int, share: float) -> None:
    width = 64 * units
    kept = kept_width(width, share)
    assert kept % 64 == 0
    assert 64 <= kept <= width
    assert kept == 64 or abs(kept - (1 - share) * width) <= 32 + 1e-3


@pytest.mark.parametrize(
    ("width", "share", "kept"), [(256, 0.0, 256), (256, 0.25, 192), (128, 0.25, 64), (768, 0.5, 384), (48, 0.5, 24)]
)
def test_kept_widths_by_hand(width: int, share: float, kept: int) -> None:
    assert kept_width(width, share) == kept
