"""Selection and merging inside the graph against NumPy, and attention against transformers' own in eager mode."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.axes.visual_tokens import AXIS, uniform_places
from spaces.axes.visual_tokens_graph import attention_received, greatest, merged, norms, rounds
from spaces.errors import StageFailed
from spaces.signal_stack import kept_signal_stack
from tests.spaces.axes.conftest import CLIP_SIDE, Apply, genai_answers, vision_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP_PIXELS = np.random.default_rng(5).normal(size=(3, 3, CLIP_SIDE, CLIP_SIDE)).astype(np.float32)


def _run(build: Any, tokens: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """What a graph of ``build`` over tokens of any batch gives, in f32."""
    import openvino
    from openvino import opset13 as ops

    port = ops.parameter([-1, *tokens.shape[1:]], np.float32)
    graph = openvino.Model([ops.result(build(port.output(0)))], [port])
    with kept_signal_stack():
        return np.array(openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(tokens)[0])


def _merged_by_hand(tokens: "NDArray[np.float64]", kept: int) -> "NDArray[np.float64]":
    """Bipartite soft matching pair by pair, on lists: (sum of the originals, how many) at each place."""
    groups = [(token, 1) for token in tokens]
    while len(groups) > kept:
        means = [total / count for total, count in groups]
        pairs = []
        for even in range(0, len(groups), 2):
            cosines = {
                odd: means[even] @ means[odd] / np.linalg.norm(means[even]) / np.linalg.norm(means[odd])
                for odd in range(1, len(groups), 2)
            }
            odd = max(cosines, key=cosines.__getitem__)
            pairs.append((cosines[odd], even, odd))
        chosen = sorted(pairs, reverse=True)[: min(len(groups) // 2, len(groups) - kept)]
        for _, even, odd in chosen:
            groups[odd] = (groups[odd][0] + groups[even][0], groups[odd][1] + groups[even][1])
        gone = {even for _, even, _ in chosen}
        groups = [group for place, group in enumerate(groups) if place not in gone]
    return np.stack([total / count for total, count in groups])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("total", "kept"), [(16, 12), (16, 8), (16, 7), (17, 9), (17, 8), (9, 1), (2, 1), (25, 3), (5, 5)]
)
def test_merging_by_hand(total: int, kept: int, batch: int) -> None:
    """Independent: explicit pairs and lists in float64, no masks and no matrices."""
    tokens = np.random.default_rng(total * kept).normal(size=(batch, total, 6)).astype(np.float32)
    expected = np.stack([_merged_by_hand(image.astype(np.float64), kept) for image in tokens])
    np.testing.assert_allclose(_run(lambda port: merged(port, total, kept), tokens), expected, atol=1e-5)


def test_merging_keeps_the_mean_of_all_tokens_where_it_ends_with_one() -> None:
    """Closed form: size-weighted means of means are the mean of the originals."""
    tokens = np.random.default_rng(0).normal(size=(3, 23, 5)).astype(np.float32)
    left = _run(lambda port: merged(port, 23, 1), tokens)
    np.testing.assert_allclose(left[:, 0], tokens.mean(axis=1), atol=1e-6)


@given(total=st.integers(1, 2000), data=st.data())
def test_rounds_take_at_most_half_and_end_at_the_number_wanted(total: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, total))
    taken = list(rounds(total, kept))
    assert sum(removed for _, removed in taken) == total - kept
    assert all(0 < removed <= count // 2 for count, removed in taken)
    assert len(taken) <= np.ceil(np.log2(total / kept)) + 1


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_the_longest_tokens_by_hand(kept: int) -> None:
    tokens = np.random.default_rng(1).normal(size=(3, 9, 5)).astype(np.float32)
    left = _run(lambda port: greatest(port, norms(port), kept), tokens)
    for image, found in zip(tokens, left, strict=True):
        places = sorted(sorted(range(9), key=lambda place: -sum(image[place] ** 2))[:kept])
        np.testing.assert_array_equal(found, image[places])


def _eager_attention(checkpoint: Path, layer: int, pixels: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Attention (image, head, query, key) of one vision layer, by transformers' eager path in torch."""
    import torch

    from spaces.axes.checkpoint import load_strict

    model = load_strict(checkpoint)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        seen = model.model.vision_tower(torch.from_numpy(pixels), output_attentions=True)
    return np.asarray(seen.attentions[layer].double().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("keep", [0.75, 0.25])
@pytest.mark.parametrize("tower", ["siglip", "clip"])
def test_attention_keeps_what_transformers_says_is_looked_at(
    request: pytest.FixtureRequest, apply: Apply, tower: str, keep: float, batch: int
) -> None:
    """Independent: eager attention of the torch checkpoint, not the graph's inputs. CLIP: layer -2, class token out."""
    siglip = tower == "siglip"
    checkpoint = request.getfixturevalue("tiny_checkpoint" if siglip else "clip_checkpoint")
    folder = request.getfixturevalue("exported" if siglip else "clip_exported")
    pixels = CLIP_PIXELS[:batch, :, :16, :16] if siglip else CLIP_PIXELS[:batch]
    received = _eager_attention(checkpoint, -1 if siglip else -2, pixels).mean(axis=(1, 2))
    received = received if siglip else received[:, 1:]
    whole = vision_outputs(folder, pixels)
    assert received.shape == whole.shape[:2]
    left = vision_outputs(apply(AXIS, folder, keep=keep, method="attention"), pixels)
    for image, found, scores in zip(whole, left, received, strict=True):
        places = np.sort(np.argsort(-scores)[: round(keep * len(scores))])
        np.testing.assert_allclose(found, image[places], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_attention_scores_of_the_graph_are_those_of_transformers(clip_checkpoint: Path, clip_exported: Path) -> None:
    import openvino

    graph = openvino.Core().read_model(clip_exported / "openvino_vision_embeddings_model.xml")
    graph.add_outputs([attention_received(graph, 16).output(0)])
    with kept_signal_stack():
        scores = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(CLIP_PIXELS)[1]
    expected = _eager_attention(clip_checkpoint, -2, CLIP_PIXELS).mean(axis=(1, 2))[:, 1:]
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


def _attention_graph(*inputs: Any) -> Any:
    """One attention over (2, 3, 5, 4) queries that are the keys too, with what else it is given."""
    import openvino
    from openvino import opset13 as ops

    port = ops.parameter([2, 3, 5, 4], np.float32)
    attention = ops.scaled_dot_product_attention(port, port, port, *inputs)
    return openvino.Model([ops.result(attention)], [port])


@pytest.mark.parametrize("given", ["nothing", "mask", "mask and scale"])
def test_attention_with_and_without_mask_and_scale_by_hand(given: str) -> None:
    import openvino

    mask = np.random.default_rng(2).normal(size=(2, 1, 5, 5)).astype(np.float32)
    inputs = {"nothing": (), "mask": (mask,), "mask and scale": (mask, np.float32(0.3))}[given]
    graph = _attention_graph(*inputs)
    graph.add_outputs([attention_received(graph, 5).output(0)])
    heads = np.random.default_rng(1).normal(size=(2, 3, 5, 4)).astype(np.float32)
    with kept_signal_stack():
        scores = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(heads)[1]
    scale = 0.3 if "scale" in given else 0.5  # of 4 channels
    powers = np.exp(np.einsum("bhqc,bhkc->bhqk", heads, heads) * scale + (mask if inputs else 0))
    np.testing.assert_allclose(scores, (powers / powers.sum(-1, keepdims=True)).mean((1, 2)), rtol=1e-5)


def test_attention_that_cannot_be_read_is_refused() -> None:
    import openvino
    from openvino import opset13 as ops

    with pytest.raises(StageFailed, match="is masked: take"):
        attention_received(_attention_graph(np.ones((2, 1, 5, 5), dtype=bool)), 5)
    port = ops.parameter([2, 5, 4], np.float32)
    with pytest.raises(StageFailed, match="no scaled dot-product attention: take"):
        attention_received(openvino.Model([ops.result(ops.relu(port))], [port]), 5)


def test_attention_over_other_places_than_the_tokens_is_refused(clip_exported: Path) -> None:
    import openvino

    graph = openvino.Core().read_model(clip_exported / "openvino_vision_embeddings_model.xml")
    with pytest.raises(StageFailed, match=r"attends to 17 places and there are 4 visual tokens: take .*norm"):
        attention_received(graph, 4)


@pytest.mark.parametrize("method", ["uniform", "merge", "random", "norm"])
def test_a_clip_tower_s_tokens_without_the_class_token(clip_exported: Path, apply: Apply, method: str) -> None:
    whole = vision_outputs(clip_exported, CLIP_PIXELS)
    assert whole.shape[1] == 16
    left = vision_outputs(apply(AXIS, clip_exported, keep=0.5, method=method), CLIP_PIXELS)
    for image, found in zip(whole, left, strict=True):
        if method == "merge":
            expected = _merged_by_hand(image.astype(np.float64), 8)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(image).max())
        else:
            places = [int(np.flatnonzero((image == token).all(axis=1))[0]) for token in found]
            assert places == sorted(set(places))
            if method == "uniform":
                assert places == [0, 2, 5, 7, 8, 10, 13, 15]


def test_the_clip_tower_answers_with_fewer_input_tokens(
    clip_exported: Path, apply: Apply, tiny_images: list[Path]
) -> None:
    cut = apply(AXIS, clip_exported, keep=0.25, method="attention")
    (_, whole), (_, left) = (
        genai_answers(each, tiny_images[:1], ["what is this ?"])[0] for each in (clip_exported, cut)
    )
    assert whole - left == 12


def test_uniform_places_of_a_square_grid_are_a_lattice() -> None:
    """Closed form: every second row and column, and the checkerboard."""
    row, column = np.divmod(np.arange(64), 8)
    np.testing.assert_array_equal(uniform_places(8, 8, 16), np.flatnonzero((row % 2 == 0) & (column % 2 == 0)))
    np.testing.assert_array_equal(uniform_places(8, 8, 32), np.flatnonzero((row + column) % 2 == 0))
    np.testing.assert_array_equal(uniform_places(8, 8, 64), np.arange(64))


@given(rows=st.integers(2, 8), columns=st.integers(2, 8), data=st.data())
def test_uniform_places_leave_no_patch_far_from_one(rows: int, columns: int, data: st.DataObject) -> None:
    """Gonzalez's bound: patches farther from all places than places are from each other do not exist (brute force)."""
    kept = data.draw(st.integers(2, rows * columns))
    places = uniform_places(rows, columns, kept)
    assert len(set(places)) == kept
    assert list(places) == sorted(places)

    def apart(one: int, other: int) -> float:
        down, across = abs(one // columns - other // columns), abs(one % columns - other % columns)
        return float(np.hypot(min(down, rows - down), min(across, columns - across)))

    spacing = min(apart(one, other) for one in places for other in places if one != other)
    assert max(min(apart(patch, place) for place in places) for patch in range(rows * columns)) <= spacing


@pytest.mark.parametrize("kept", [2, 3, 4, 5])
def test_uniform_places_are_within_twice_the_best_covering(kept: int) -> None:
    """Against every set of places of a 4 x 4 grid (Gonzalez 1985: farthest-first is within a factor of two)."""
    from itertools import combinations

    row, column = np.divmod(np.arange(16), 4)
    down, across = (np.abs(line[:, None] - line[None]) for line in (row, column))
    apart = np.hypot(np.minimum(down, 4 - down), np.minimum(across, 4 - across))

    def radius(places: Any) -> float:
        return float(apart[:, list(places)].min(axis=1).max())

    assert radius(uniform_places(4, 4, kept)) <= 2 * min(map(radius, combinations(range(16), kept)))
