"""Reads exported graphs for the tests of quantization: stored types, decompressed weights, inputs of layers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def linears(folder: Path, graph: str) -> dict[str, Any]:
    """The nodes with constant weights of a graph, by name."""
    import openvino

    model = openvino.Core().read_model(folder / f"openvino_{graph}_model.xml")
    kinds = ("MatMul", "Gather", "Convolution")
    return {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() in kinds}


def layer(folder: Path, graph: str, part: str) -> Any:
    """The one linear layer whose name has this part."""
    (found,) = (node for name, node in linears(folder, graph).items() if part in name)
    return found


def storage(node: Any) -> str:
    """The element type that the weights of a linear layer are stored in."""
    constant = node.input_value(0 if node.get_type_name() == "Gather" else 1).get_node()
    while constant.get_type_name() != "Constant":
        constant = constant.input_value(0).get_node()
    return str(constant.get_element_type().get_type_name())


def weights(node: Any) -> "NDArray[np.float64]":
    """The (row, column) weights that a linear layer multiplies with, worked out by OpenVINO's own constant folding."""
    import openvino

    folded = openvino.Model([openvino.opset13.result(node.input_value(1))], [])
    with kept_signal_stack():
        return np.array(openvino.Core().compile_model(folded, "CPU", EXACT)([])[0], dtype=np.float64)


def layer_inputs(
    folder: Path, parts: Iterable[str], feeds: Iterable[Mapping[str, Any]]
) -> dict[str, "list[NDArray[np.float64]]"]:
    """For each named layer of the language model, its inputs (token, width) for each of the feeds."""
    import openvino

    model = openvino.Core().read_model(folder / "openvino_language_model.xml")
    names = list(parts)
    for part in names:
        (node,) = (n for n in model.get_ops() if n.get_type_name() == "MatMul" and part in n.get_friendly_name())
        model.add_outputs([node.input_value(0)])
    found: dict[str, list[NDArray[np.float64]]] = {part: [] for part in names}
    with kept_signal_stack():
        request = openvino.Core().compile_model(model, "CPU", EXACT).create_infer_request()
        for feed in feeds:
            request.reset_state()
            request.infer(dict(feed))
            for place, part in enumerate(names, start=1):
                found[part].append(np.array(request.get_output_tensor(place).data[0], dtype=np.float64))
    return found
