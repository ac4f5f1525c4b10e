"""The axis of visual tokens: how many of an image's tokens the language model sees, cut inside the deployed graph."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import VISION_EMBEDDINGS, link_others, read_json
from spaces.axes.graphs import save_graph
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


class VisualTokens:
    """Knobs ``keep`` (share of tokens kept) and ``method`` (which ones).

    ``norm`` keeps, image by image, the tokens with the greatest L2 norm after the projector. ``random`` keeps one set
    of places, drawn from the seed, for all images; a strong baseline (arXiv 2511.02650). Kept tokens stay in order.
    """

    name = "visual_tokens"
    version = 1
    tools: tuple[str, ...] = ("openvino", "numpy")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "keep": Domain(kind="float", default=1.0, low=0.01, high=1.0, help="share of visual tokens kept"),
            "method": Domain(
                kind="choice",
                default="norm",
                values=("norm", "random"),
                unless={"keep": (1.0,)},
                help="which visual tokens are kept",
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return float(choice["keep"]) < 1

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Rewrites the vision graph, links every other file. Byte-deterministic.

        Raises:
            StageFailed: the artifact is no OpenVINO export, or its number of visual tokens is not fixed.
        """
        graph = source / f"{VISION_EMBEDDINGS}.xml"
        if not graph.is_file():
            raise StageFailed(
                "visual_tokens.keep below 1 needs runtime.name openvino: there is no vision graph to cut."
            )
        with quiet("openvino"):
            import openvino

            model = openvino.Core().read_model(graph)
            total = token_count(model, source)
            kept = kept_count(total, float(choice["keep"]))
            result = model.output(0).get_node()
            tokens = result.input_value(0)
            if choice["method"] == "random":
                chosen = _fixed(tokens, random_places(total, kept, seed))
            else:
                chosen = _by_norm(tokens, kept)
            names = tokens.get_names()
            tokens.get_tensor().set_names(set())
            chosen.get_tensor().set_names(names)
            result.input(0).replace_source_output(chosen)
            model.validate_nodes_and_infer_types()
            save_graph(model, target / graph.name)
        link_others(source, target, [VISION_EMBEDDINGS])


def kept_count(total: int, keep: float) -> int:
    """How many of ``total`` tokens a share means: the nearest whole number, at least 1."""
    return max(1, round(keep * total))


def random_places(total: int, kept: int, seed: int) -> "NDArray[np.int64]":
    """``kept`` of ``total`` places drawn from the seed, in rising order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:kept]).astype(np.int64)


def token_count(model: Any, folder: Path) -> int:
    """The number of visual tokens that a vision graph gives for the image size in the folder's config.json.

    Raises:
        StageFailed: the number depends on more than the image size.
    """
    image_size = int(read_json(folder / "config.json")["vision_config"]["image_size"])
    sized = model.clone()
    sized.reshape({sized.input(0): [1, 3, image_size, image_size]})
    count = sized.output(0).get_partial_shape()[1]
    if not count.is_static:
        raise StageFailed("the vision graph has no fixed number of visual tokens: visual_tokens cannot cut it.")
    return int(count.get_length())


def _by_norm(tokens: Any, kept: int) -> Any:
    from openvino import opset13 as ops

    norms = ops.reduce_l2(tokens, np.int64(2), keep_dims=False)
    places = ops.topk(norms, np.int64(kept), axis=1, mode="max", sort="index", index_element_type="i64", stable=False)
    return ops.gather(tokens, places.output(1), np.int64(1), batch_dims=1).output(0)


def _fixed(tokens: Any, places: "NDArray[np.int64]") -> Any:
    from openvino import opset13 as ops

    return ops.gather(tokens, places, np.int64(1)).output(0)


AXIS = VisualTokens()
