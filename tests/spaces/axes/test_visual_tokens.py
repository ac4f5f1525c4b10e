from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.axes.visual_tokens import AXIS, METHODS, kept_count, random_places
from spaces.errors import StageFailed
from tests.spaces.axes.conftest import Apply, contents, genai_answers, vision_outputs

PIXELS = np.random.default_rng(3).normal(size=(5, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(("keep", "kept"), [(0.75, 3), (0.5, 2), (0.25, 1), (0.01, 1)])
def test_norm_keeps_each_image_s_longest_tokens_in_order(exported: Path, apply: Apply, keep: float, kept: int) -> None:
    cut = apply(AXIS, exported, keep=keep)
    whole, left = vision_outputs(exported, PIXELS), vision_outputs(cut, PIXELS)
    assert left.shape == (5, kept, whole.shape[2])
    places = set()
    for before, after in zip(whole, left, strict=True):
        longest = np.sort(np.argsort(-np.linalg.norm(before, axis=1))[:kept])
        places.add(tuple(longest))
        np.testing.assert_allclose(after, before[longest], rtol=1e-5, atol=1e-6)
    assert len(places) > 1


def test_random_keeps_the_places_of_its_seed(exported: Path, apply: Apply) -> None:
    whole = vision_outputs(exported, PIXELS)
    seen = set()
    for seed in range(4):
        left = vision_outputs(apply(AXIS, exported, f"seed{seed}", seed, keep=0.5, method="random"), PIXELS)
        places = [int(np.flatnonzero((whole[0] == token).all(axis=1))[0]) for token in left[0]]
        assert places == sorted(places)
        np.testing.assert_array_equal(left, whole[:, places])
        seen.add(tuple(places))
    assert len(seen) > 1


@pytest.mark.parametrize("method", ["random", "merge"])
def test_the_pipeline_answers_with_fewer_input_tokens(
    exported: Path, apply: Apply, tiny_images: list[Path], method: str
) -> None:
    questions = ["what is this ?"] * 2
    whole = genai_answers(exported, tiny_images[:2], questions)
    cut = genai_answers(apply(AXIS, exported, keep=0.5, method=method), tiny_images[:2], questions)
    assert [tokens for _, tokens in cut] == [tokens - 2 for _, tokens in whole]


@pytest.mark.parametrize("method", METHODS)
def test_other_files_stay_and_the_result_is_the_same_twice(exported: Path, apply: Apply, method: str) -> None:
    once, again = (contents(apply(AXIS, exported, name, keep=0.5, method=method)) for name in ("once", "again"))
    assert once == again
    source = contents(exported)
    assert once.keys() == source.keys()
    changed = {name for name in once if once[name] != source[name]}
    assert changed == {"openvino_vision_embeddings_model.bin", "openvino_vision_embeddings_model.xml"}


def test_a_checkpoint_without_a_vision_graph_is_refused(tiny_checkpoint: Path, apply: Apply) -> None:
    with pytest.raises(StageFailed, match="needs runtime"):
        apply(AXIS, tiny_checkpoint, keep=0.5)


@given(total=st.integers(1, 1000), keep=st.floats(0.01, 1), seed=st.integers(0, 1 << 32))
def test_counts_and_places(total: int, keep: float, seed: int) -> None:
    kept = kept_count(total, keep)
    assert kept == 1 or abs(kept - keep * total) <= 0.5
    places = random_places(total, kept, seed)
    assert len(set(places)) == kept
    assert list(places) == sorted(places)
    assert places[0] >= 0
    assert places[-1] < total
