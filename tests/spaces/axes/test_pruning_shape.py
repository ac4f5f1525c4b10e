from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.axes.pruning_shape import (
    feature_depth,
    kept_count,
    kept_heads,
    kept_width,
    moved_feature_layer,
    pruned_shape,
)

CONFIG: dict[str, Any] = {
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 80,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
    },
    "vision_config": {"intermediate_size": 192, "num_hidden_layers": 6, "num_attention_heads": 4},
    "vision_feature_layer": -2,
}


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


@given(count=st.integers(1, 200), share=st.floats(0, 0.9))
def test_kept_counts_are_within_a_half_and_at_least_one(count: int, share: float) -> None:
    kept = kept_count(count, share)
    assert 1 <= kept <= count
    assert kept == 1 or abs(kept - (1 - share) * count) <= 0.5 + 1e-6


@given(
    queries=st.integers(1, 8),
    groups=st.integers(1, 16),
    dim=st.sampled_from([16, 32, 64]),
    share=st.floats(0, 0.9),
    kind=st.sampled_from(["llama", "qwen2"]),
)
def test_kept_heads_are_the_nearest_that_load(queries: int, groups: int, dim: int, share: float, kind: str) -> None:
    heads, width = queries * groups, queries * groups * dim
    text = {"model_type": kind, "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": groups}
    left, left_groups = kept_heads(text, share)
    assert left_groups >= 1
    assert left % left_groups == 0
    assert (left // left_groups == queries) if groups > 1 else (left_groups == 1)
    assert kind == "qwen2" or width % left == 0
    step = queries if groups > 1 else 1
    loads = [n for n in range(step, heads + 1, step) if kind == "qwen2" or width % n == 0]
    wanted = max(step, (1 - share) * heads)
    assert abs(left - wanted) <= min(abs(n - wanted) for n in loads) + 1e-6


def test_nothing_is_removed_by_default_and_shares_are_taken_from_each_part() -> None:
    whole = {"ffn": 256, "heads": 10, "kv_heads": 5, "head_dim": 8, "layers": 4}
    whole |= {"vision_ffn": 192, "vision_heads": 4, "vision_layers": 6}
    assert pruned_shape(CONFIG, {}) == whole
    shares = {"ffn": 0.25, "heads": 0.4, "layers": 0.5, "vision_ffn": 0.4, "vision_heads": 0.5, "vision_layers": 0.4}
    left = {"ffn": 192, "heads": 6, "kv_heads": 3, "head_dim": 8, "layers": 2}
    left |= {
        "vision_ffn": 128,
        "vision_heads": 2,
        "vision_layers": 4,
    }  # three of five that are read, and the unread one
    assert pruned_shape(CONFIG, {**shares, "importance": "weights"}) == left


@pytest.mark.parametrize(
    ("layer", "kept", "moved"),
    [
        (-1, [0, 2, 5], -1),
        (-2, [0, 2, 5], -2),
        (4, [0, 2, 5], 2),
        (6, [0, 2, 5], 3),
        (0, [0, 2, 5], 0),
        (-3, [0, 1, 4, 5], -3),
    ],
)
def test_features_are_read_after_the_same_layers(layer: int, kept: list[int], moved: int) -> None:
    config = {**CONFIG, "vision_feature_layer": layer}
    assert moved_feature_layer(config, kept) == moved
    after = {"vision_config": {"num_hidden_layers": len(kept)}, "vision_feature_layer": moved}
    old, new = feature_depth(config), feature_depth(after)
    assert kept[:new] == [number for number in kept if number < old]
