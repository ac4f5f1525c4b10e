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
from spaces.axes.visual_tokens_graph import attention_received, greatest, merged, norms, taken
from spaces.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


METHODS = ("norm", "random", "uniform", "attention", "merge")


class VisualTokens:
    """Knobs ``keep`` (share of tokens left) and ``method`` (how). What is left stays in its order.

    ``norm`` keeps, image by image, the tokens with the greatest L2 norm after the projector. ``attention`` keeps those
    that receive most attention in the last vision layer that is used (`attention_received`). ``random`` keeps one set
    of places, drawn from the seed, for all images; a strong baseline (arXiv 2511.02650). ``uniform`` keeps one set of
    places for all images, spread evenly over the grid of patches (`uniform_places`). ``merge`` averages tokens that are
    alike (`merged`, ToMe, arXiv 2210.09461).

    A class token that is a visual token too (a CLIP tower with the strategy ``full``) is a token like any other, but
    that ``uniform`` always keeps it.
    """

    name = "visual_tokens"
    version = 2
    tools: tuple[str, ...] = ("openvino", "numpy")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "keep": Domain(kind="float", default=1.0, low=0.01, high=1.0, help="share of visual tokens left"),
            "method": Domain(
                kind="choice",
                default="norm",
                values=METHODS,
                unless={"keep": (1.0,)},
                help="which visual tokens are left, or how they merge",
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
            StageFailed: the artifact is no OpenVINO export, its number of visual tokens is not fixed, or its vision
                graph lacks what the method reads.
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
            chosen = _fewer(str(choice["method"]), model, tokens, total, kept, source, seed)
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


def uniform_places(rows: int, columns: int, kept: int) -> "NDArray[np.int64]":
    """``kept`` places, row by row, spread over a grid of patches: farthest-first traversal (Gonzalez 1985).

    From the first place on, the next one is always that which is farthest from all taken so far, the earlier one of
    equals, in Euclidean distance over a grid whose opposite edges touch, so that the border is no better than the
    middle. Where half or a quarter of an even grid is kept this gives a checkerboard or every second row and column.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    nearest = np.full(rows * columns, np.inf)
    chosen = np.zeros(kept, dtype=np.int64)
    for turn in range(kept):
        place = chosen[turn] = 0 if turn == 0 else int(nearest.argmax())
        down, across = np.abs(row - row[place]), np.abs(column - column[place])
        squared = np.minimum(down, rows - down) ** 2 + np.minimum(across, columns - across) ** 2
        nearest = np.minimum(nearest, squared)
    return np.sort(chosen)


def _fewer(method: str, model: Any, tokens: Any, total: int, kept: int, source: Path, seed: int) -> Any:
    """The output that takes the place of ``tokens`` (image, ``total``, width)."""
    if method == "merge":
        return merged(tokens, total, kept)
    if method == "attention":
        return greatest(tokens, attention_received(model, total), kept)
    if method == "norm":
        return greatest(tokens, norms(tokens), kept)
    return taken(tokens, random_places(total, kept, seed) if method == "random" else _spread(total, kept, source))


def _spread(total: int, kept: int, source: Path) -> "NDArray[np.int64]":
    vision = read_json(source / "config.json")["vision_config"]
    side = int(vision["image_size"]) // int(vision["patch_size"])
    extra = total - side * side
    if extra not in (0, 1):
        raise StageFailed(
            f"{total} visual tokens do not lie on a grid of {side} x {side} patches: take visual_tokens.method random."
        )
    return np.concatenate([np.arange(extra), extra + uniform_places(side, side, kept - extra)]).astype(np.int64)


AXIS = VisualTokens()
