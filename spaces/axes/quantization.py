"""The axis of quantization: the bits of the deployed weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import LANGUAGE_MODEL, TEXT_EMBEDDINGS, VISION_EMBEDDINGS, link_others
from spaces.axes.graphs import save_graph
from spaces.axes.layout import Layout
from spaces.axes.quantization_rules import GROUP_SIZES, PARTS, illegal
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from spaces.sample import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_LIMIT = 128
LEVELS = ("fp16", "int8", "int4")
METHODS: Mapping[str, Mapping[str, bool]] = {
    "rtn": {},
    "awq": {"awq": True},
    "scale_estimation": {"scale_estimation": True},
    "awq_scale_estimation": {"awq": True, "scale_estimation": True},
    "gptq": {"gptq": True},
}
"""Method -> NNCF's switches; all but ``rtn`` read samples."""
_INT4 = {"weights": ("int4",)}
_PROJECTOR = "multi_modal_projector"


class Quantization:
    """The bits of the language model (``weights``), the ``vision`` encoder and the ``projector``. By NNCF.

    int8: every linear layer of the part, one scale a row. int4: one scale to ``group_size`` weights of a row. ``mode``
    says whether the integers have a zero point (asym) or not (sym). What is int8 beside int4 is asymmetric: the head of
    the language model, the share of it that ``ratio`` leaves, the patch embedding. The text embeddings are int8,
    asymmetric, wherever ``weights`` is not fp16.

    ``ratio`` is the greatest share of the language model's weights at int4; the layers that NNCF finds most sensitive
    (by their weights' error at int8 for rtn, by their inputs' variance for the other methods) are int8. ``method`` is
    for the language model at int4: rtn (round to nearest), awq (arXiv 2306.00978; NNCF scales the inputs of the FFN's
    last layer), scale_estimation (NNCF's own: scales that keep a layer's output), both, or gptq (arXiv 2210.17323). All
    but rtn read at most 128 samples of the split ``calibration``, each the whole sequence that is answered at
    inference: prompt with visual tokens, then the reference answer. Vision encoder and projector are rounded to
    nearest.
    """

    name = "quantization"
    version = 2
    tools: tuple[str, ...] = ("nncf", "openvino", "transformers", "tokenizers", "pillow", "numpy")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "weights": Domain(
                kind="choice", default="fp16", values=LEVELS, help="type of the language model's weights"
            ),
            "vision": Domain(kind="choice", default="fp16", values=LEVELS, help="type of the vision encoder's weights"),
            "projector": Domain(kind="choice", default="fp16", values=LEVELS, help="type of the projector's weights"),
            "mode": Domain(
                kind="choice",
                default="sym",
                values=("sym", "asym"),
                unless_all=dict.fromkeys(PARTS, ("fp16",)),
                help="integers without (sym) or with a zero point (asym)",
            ),
            "group_size": Domain(
                kind="choice",
                default=64,
                values=GROUP_SIZES,
                unless_all=dict.fromkeys(PARTS, ("fp16", "int8")),
                help="int4 weights to one scale",
            ),
            "method": Domain(
                kind="choice", default="rtn", values=tuple(METHODS), when=_INT4, help="how int4 weights are chosen"
            ),
            "ratio": Domain(
                kind="float",
                default=1.0,
                low=0.0,
                high=1.0,
                when=_INT4,
                help="share of the language model's weights at int4, the rest int8",
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return any(choice[part] != "fp16" for part in PARTS)

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ("calibration",) if choice["weights"] == "int4" and choice["method"] != "rtn" else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Rewrites the graphs of the parts that are quantized, links every other file. Byte-deterministic.

        Raises:
            StageFailed: the artifact is no OpenVINO export, a width is no multiple of the group size (the nearest size
                that fits is named), the projector cannot be told from the vision encoder, or there are no calibration
                samples.
        """
        if not (source / f"{LANGUAGE_MODEL}.xml").is_file():
            knob = next(part for part in PARTS if choice[part] != "fp16")
            raise StageFailed(f"quantization.{knob} {choice[knob]} needs runtime.name openvino.")
        with quiet("transformers", "nncf", "openvino"):
            import openvino

            core = openvino.Core()
            language = core.read_model(source / f"{LANGUAGE_MODEL}.xml")
            vision = core.read_model(source / f"{VISION_EMBEDDINGS}.xml")
            sees = {choice["vision"], choice["projector"]} != {"fp16"}
            if wrong := illegal(choice, {"weights": _rows(language)} | (_vision_rows(vision) if sees else {})):
                raise StageFailed(wrong)
            rewritten = {}
            if choice["weights"] != "fp16":
                rewritten[LANGUAGE_MODEL] = _language_model(language, choice, source, samples)
                embeddings = core.read_model(source / f"{TEXT_EMBEDDINGS}.xml")
                rewritten[TEXT_EMBEDDINGS] = _compressed(embeddings, "int8", {**choice, "mode": "asym"})
            if sees:
                rewritten[VISION_EMBEDDINGS] = _vision_graph(vision, choice)
            for name, graph in rewritten.items():
                save_graph(graph, target / f"{name}.xml")
        link_others(source, target, rewritten)


def calibration_inputs(folder: Path, samples: Sequence[Sample]) -> "Iterator[dict[str, NDArray[Any]]]":
    """What the exported language model is fed for each sample, one sample at a time.

    Yields:
        ``inputs_embeds`` (1, token, width) float32, made by the folder's own text and vision graphs, ``attention_mask``
        and ``position_ids`` (1, token) int64, ``beam_idx`` (1) int32; a token is one of prompt, image or answer.
    """
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    text = core.compile_model(folder / f"{TEXT_EMBEDDINGS}.xml", "CPU", settings)
    vision = core.compile_model(folder / f"{VISION_EMBEDDINGS}.xml", "CPU", settings)
    layout = Layout(folder)
    for sample in samples:
        prompt, answer = layout.prompt_and_answer_ids(sample.question, sample.answers[0])
        place = prompt.index(layout.image_token)
        words = text(np.array([[*prompt, *answer]], dtype=np.int64))[0]
        image = vision(layout.pixels([sample.image]))[0]
        embedded = np.concatenate([words[:, :place], image, words[:, place + 1 :]], axis=1)
        length = embedded.shape[1]
        yield {
            "inputs_embeds": embedded,
            "attention_mask": np.ones((1, length), dtype=np.int64),
            "position_ids": np.arange(length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }


def _language_model(graph: Any, choice: Choice, source: Path, samples: Samples) -> Any:
    method = str(choice["method"])
    if choice["weights"] == "int8":
        return _compressed(graph, "int8", choice)
    # NNCF takes a ratio of 0 for one that was not given; anything below the share of one layer leaves none at int4.
    settings: dict[str, Any] = {"ratio": max(float(choice["ratio"]), 1e-9), **METHODS[method]}
    if method != "rtn":
        import nncf

        chosen = samples.get("calibration", ())[:CALIBRATION_LIMIT]
        if not chosen:
            raise StageFailed(f"quantization.method {method} needs the split `calibration`, and the task has none.")
        data = list(calibration_inputs(source, chosen))
        settings |= {"dataset": nncf.Dataset(data), "subset_size": len(chosen)}
    return _compressed(graph, "int4", choice, **settings)


def _vision_graph(graph: Any, choice: Choice) -> Any:
    """Encoder and projector lie in one graph and are compressed one after the other, each with the other ignored."""
    import nncf

    if choice["vision"] != "fp16":
        encoder = {"ignored_scope": nncf.IgnoredScope(patterns=[f".*{_PROJECTOR}.*"])}
        graph = _compressed(graph, str(choice["vision"]), choice, **encoder)
    if choice["projector"] != "fp16":
        projector: dict[str, Any] = {"ignored_scope": nncf.IgnoredScope(patterns=[f"(?!.*{_PROJECTOR}).*"])}
        if choice["projector"] == "int4":
            projector["all_layers"] = True  # or NNCF takes its last layer for a head and leaves that at int8
        graph = _compressed(graph, str(choice["projector"]), choice, **projector)
    return graph


def _compressed(graph: Any, level: str, choice: Choice, **settings: Any) -> Any:
    import nncf

    if level == "int4":
        settings["group_size"] = int(choice["group_size"])
    return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode(f"{level}_{choice['mode']}"), **settings)


def _vision_rows(graph: Any) -> dict[str, list[int]]:
    """Row lengths of encoder and projector.

    Raises:
        StageFailed: no layer of the graph has the projector's name.
    """
    projector, encoder = (_rows(graph, projector=which) for which in (True, False))
    if not projector:
        raise StageFailed(
            f"the vision graph has no layer named {_PROJECTOR}: encoder and projector cannot be told apart."
        )
    return {"vision": encoder, "projector": projector}


def _rows(graph: Any, *, projector: bool = False) -> list[int]:
    """Row lengths of the linear layers of a graph: of those of its projector, or of all others."""
    found = []
    for node in graph.get_ops():
        if node.get_type_name() != "MatMul" or (_PROJECTOR in node.get_friendly_name()) != projector:
            continue
        weights = node.input_value(1).get_node()
        while weights.get_type_name() == "Convert":
            weights = weights.input_value(0).get_node()
        if weights.get_type_name() == "Constant":
            found.append(int(weights.get_output_shape(0)[-1 if node.get_attributes()["transpose_b"] else -2]))
    return found


AXIS = Quantization()
