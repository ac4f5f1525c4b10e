"""Saving of OpenVINO graphs: equal graphs are equal bytes, and fp16 is for weights alone."""

import re
from pathlib import Path
from typing import Any

import numpy as np

_GENERATED = re.compile(r"[A-Z]\w*?_\d+(\.\d+)?(_compressed)?")


def save_graph(model: Any, path: Path) -> None:
    """Writes xml and bin with constants as they are, and with names as `_number_names` gives them."""
    import openvino

    _number_names(model)
    openvino.save_model(model, path, compress_to_fp16=False)


def save_half(model: Any, path: Path) -> None:
    """Writes xml and bin with matrices in fp16; a scalar or vector that fp16 would change stays as it is.

    OpenVINO's own compression takes every constant, also the rotary frequencies and the epsilons of norms, whose
    rounding moves all positions of a sequence.
    """
    import openvino

    _number_names(model)
    exact = {
        node.get_friendly_name(): node.data.copy()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and _suffers(node)
    }
    rounded = path.with_name(f"rounded-{path.name}")
    openvino.save_model(model, rounded, compress_to_fp16=True)
    half = openvino.Core().read_model(rounded)
    for node in half.get_ops():
        if node.get_type_name() == "Convert" and node.get_friendly_name() in exact:
            name = node.get_friendly_name()
            constant = openvino.opset13.constant(exact[name], name=name)
            node.output(0).replace(constant.output(0))
    save_graph(half, path)
    del half
    for part in (rounded, rounded.with_suffix(".bin")):
        part.unlink()


def _suffers(constant: Any) -> bool:
    """Whether a float constant is a scalar or vector with values that fp16 does not hold."""
    values = constant.data
    if values.dtype != np.float32 or np.squeeze(values).ndim > 1:
        return False
    with np.errstate(over="ignore"):
        return not np.array_equal(values.astype(np.float16).astype(np.float32), values)


def _number_names(model: Any) -> None:
    """Numbers what has no name of its own by its place in the graph: OpenVINO counts such names over the process."""
    model.set_friendly_name("model")
    for place, node in enumerate(model.get_ordered_ops()):
        name = f"{node.get_type_name()}_{place}"
        if _GENERATED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(name)
        for port, output in enumerate(node.outputs()):
            names = output.get_tensor().get_names()
            if any(_GENERATED.fullmatch(each) for each in names):
                kept = {each for each in names if not _GENERATED.fullmatch(each)}
                output.get_tensor().set_names(kept or {f"{name}.{port}"})
