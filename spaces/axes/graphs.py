"""Saving of OpenVINO graphs so that equal graphs are equal bytes."""

import re
from pathlib import Path
from typing import Any

_GENERATED = re.compile(r"[A-Z]\w*?_\d+(\.\d+)?(_compressed)?")


def save_graph(model: Any, path: Path) -> None:
    """Writes xml and bin with weights as they are.

    OpenVINO numbers what has no name by a counter of the process; here such names are numbered by their place in the
    graph, so that one graph gives one file.
    """
    import openvino

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
    openvino.save_model(model, path, compress_to_fp16=False)
