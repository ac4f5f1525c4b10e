"""Selection and merging of visual tokens as OpenVINO operations, appended to the deployed vision graph.

The number of tokens is fixed, the batch is not. Scores and places are worked out image by image inside the graph.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def taken(tokens: Any, places: "NDArray[np.int64]") -> Any:
    """The tokens (image, token, width) at the same places of every image."""
    from openvino import opset13 as ops

    return ops.gather(tokens, places, np.int64(1)).output(0)


def greatest(tokens: Any, scores: Any, kept: int) -> Any:
    """The ``kept`` tokens of each image with the greatest scores (image, token), in their order."""
    from openvino import opset13 as ops

    return ops.gather(tokens, _ends(scores, kept, "max"), np.int64(1), batch_dims=1).output(0)


def norms(tokens: Any) -> Any:
    """The L2 norm of each token: (image, token)."""
    from openvino import opset13 as ops

    return ops.reduce_l2(tokens, np.int64(2), keep_dims=False)


def attention_received(graph: Any, total: int) -> Any:
    """How much attention each of ``total`` visual tokens receives in the last vision layer that is used.

    The softmax of scaled query-key products of the graph's last attention, worked out again from its inputs, in the
    mean over heads and queries: (image, token). A class token that is no visual token (a CLIP tower whose features are
    taken without it) asks with the others; its own share as a key is left out. FasterVLM (arXiv 2412.01818) takes the
    class token's row alone, which a SigLIP tower does not have.

    Raises:
        StageFailed: the graph has no attention that can be read, or its places are not the visual tokens.
    """
    from openvino import opset13 as ops

    layers = [node for node in graph.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    if not layers:
        raise StageFailed("the vision graph has no scaled dot-product attention: take visual_tokens.method norm.")
    query, key, *others = layers[-1].input_values()[:2] + layers[-1].input_values()[3:]
    if others and not others[0].get_element_type().is_real():
        raise StageFailed("the vision graph's attention is masked: take visual_tokens.method norm.")
    places, width = (query.get_partial_shape()[axis] for axis in (2, 3))
    extra = places.get_length() - total if places.is_static else -1
    if extra not in (0, 1):
        raise StageFailed(
            f"the last vision layer attends to {places} places and there are {total} visual tokens: "
            "take visual_tokens.method norm."
        )
    scale = others[1] if len(others) > 1 else np.float32(width.get_length() ** -0.5)
    logits = ops.multiply(ops.matmul(query, key, transpose_a=False, transpose_b=True), scale)
    if others:
        logits = ops.add(logits, others[0])
    received = ops.reduce_mean(ops.softmax(logits, axis=-1), np.array([1, 2], dtype=np.int64), keep_dims=False)
    return ops.gather(received, np.arange(extra, extra + total, dtype=np.int64), np.int64(1))


def merged(tokens: Any, total: int, kept: int) -> Any:
    """``total`` tokens of each image merged to ``kept`` by ToMe's bipartite soft matching (arXiv 2210.09461).

    In each round the tokens at even places look for the token at an odd place with the greatest cosine similarity; the
    pairs that are most alike become one token, the mean weighted by how many tokens each stands for, at the odd one's
    place. A round takes at most half of the tokens away. ToMe compares attention keys inside of the encoder; here the
    finished tokens are compared, since the language model sees those alone.
    """
    from openvino import opset13 as ops

    images = ops.gather(ops.shape_of(tokens), np.array([0]), np.int64(0))
    sizes = ops.broadcast(np.float32(1), ops.concat([images, np.array([total, 1])], axis=0))
    for count, removed in rounds(total, kept):
        tokens, sizes = (left.output(0) for left in _round(tokens, sizes, images, count, removed))
    return tokens


def rounds(total: int, kept: int) -> Iterator[tuple[int, int]]:
    """How many tokens each round of merging finds and how many it takes away: half, until few enough are left."""
    while total > kept:
        removed = min(total // 2, total - kept)
        yield total, removed
        total -= removed


def _round(tokens: Any, sizes: Any, images: Any, count: int, removed: int) -> tuple[Any, Any]:
    """Tokens (image, token, width) and sizes (image, token, 1) after one round."""
    from openvino import opset13 as ops

    one = np.int64(1)
    even, odd = (np.arange(first, count, 2, dtype=np.int64) for first in (0, 1))
    staying = len(even) - removed
    likeness, partner = _matched(tokens, even, odd)
    if staying:
        places = _ends(likeness, staying, "min")
        stays = ops.reduce_sum(_one_hot(places, len(even)), one, keep_dims=False)
        partner = ops.multiply(partner, ops.unsqueeze(ops.subtract(np.float32(1), stays), np.int64(2)))

    def gathered(values: Any) -> Any:
        """What each odd place has, with what merges into it."""
        arrivals = ops.matmul(partner, ops.gather(values, even, one), transpose_a=True, transpose_b=False)
        return ops.add(ops.gather(values, odd, one), arrivals)

    sizes_left = gathered(sizes)
    tokens_left = ops.divide(gathered(ops.multiply(tokens, sizes)), sizes_left)
    if not staying:
        return tokens_left, sizes_left
    odd_places = ops.broadcast(odd, ops.concat([images, np.array([len(odd)])], axis=0))
    spots = ops.concat([ops.multiply(places, np.int64(2)), odd_places], axis=1)
    order = _ranks(spots, staying + len(odd))

    def interleaved(values: Any, others: Any) -> Any:
        """Even tokens that stay and odd tokens, in the order of their places."""
        stayed = ops.gather(ops.gather(values, even, one), places, one, batch_dims=1)
        return ops.gather(ops.concat([stayed, others], axis=1), order, one, batch_dims=1)

    return interleaved(tokens, tokens_left), interleaved(sizes, sizes_left)


def _matched(tokens: Any, even: "NDArray[np.int64]", odd: "NDArray[np.int64]") -> tuple[Any, Any]:
    """Each even token's greatest cosine with an odd one (image, even), and which one, one-hot (image, even, odd)."""
    from openvino import opset13 as ops

    one, last = np.int64(1), np.int64(2)
    lengths = ops.maximum(ops.reduce_l2(tokens, last, keep_dims=True), np.float32(1e-12))
    directions = ops.divide(tokens, lengths)
    askers, asked = (ops.gather(directions, places, one) for places in (even, odd))
    cosines = ops.matmul(askers, asked, transpose_a=False, transpose_b=True)
    best = ops.topk(cosines, one, axis=2, mode="max", sort="value", index_element_type="i64", stable=True)
    likeness, index = (ops.squeeze(output, last) for output in best.outputs())
    return likeness, _one_hot(index, len(odd))


def _one_hot(index: Any, depth: int) -> Any:
    from openvino import opset13 as ops

    return ops.one_hot(index, np.int64(depth), np.float32(1), np.float32(0), -1)


def _ranks(spots: Any, count: int) -> Any:
    """For each image, where the least, the next and so on of its ``count`` numbers stands."""
    from openvino import opset13 as ops

    return ops.topk(
        spots, np.int64(count), axis=1, mode="min", sort="value", index_element_type="i64", stable=False
    ).output(1)


def _ends(scores: Any, count: int, mode: str) -> Any:
    """The places (image, count) of the greatest or least scores (image, place), in rising order."""
    from openvino import opset13 as ops

    return ops.topk(
        scores, np.int64(count), axis=1, mode=mode, sort="index", index_element_type="i64", stable=False
    ).output(1)
