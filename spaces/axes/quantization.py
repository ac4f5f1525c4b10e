"""The axis of quantization: the bits of the deployed weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import LANGUAGE_MODEL, TEXT_EMBEDDINGS, VISION_EMBEDDINGS, link_others, read_json
from spaces.axes.graphs import save_graph
from spaces.axes.layout import Layout
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from spaces.sample import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP_SIZES = (32, 64, 128)
CALIBRATION_LIMIT = 128
_INT4 = {"weights": ("int4",)}
_PROJECTOR = ".*multi_modal_projector.*"


class Quantization:
    """Knobs ``weights`` (fp16, int8, int4) and, for int4, ``group_size`` and ``calibrated``. Weights only, by NNCF.

    int8: every linear layer of the language model and the vision tower, and the text embeddings, asymmetric, one scale
    a row. int4: the linear layers of the language model but its head, symmetric, one scale to ``group_size`` weights of
    a row; head, vision tower and text embeddings as for int8. The projector stays fp16 in both. ``calibrated`` adds AWQ
    (arXiv 2306.00978) and NNCF's scale estimation over at most 128 samples of the split ``calibration``, each the whole
    sequence that is answered at inference: prompt with visual tokens, then the reference answer.
    """

    name = "quantization"
    version = 1
    tools: tuple[str, ...] = ("nncf", "openvino", "transformers", "tokenizers", "pillow", "numpy")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "weights": Domain(
                kind="choice", default="fp16", values=("fp16", "int8", "int4"), help="type of the weights"
            ),
            "group_size": Domain(
                kind="choice", default=64, values=GROUP_SIZES, when=_INT4, help="weights to one scale"
            ),
            "calibrated": Domain(kind="flag", default=False, when=_INT4, help="AWQ and scale estimation on samples"),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return choice["weights"] != "fp16"

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ("calibration",) if choice["weights"] == "int4" and choice["calibrated"] else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Rewrites the three graphs, links every other file.

        Raises:
            StageFailed: the artifact is no OpenVINO export, a width is no multiple of the group size (the nearest size
                that fits is named), or there are no calibration samples.
        """
        if not (source / f"{LANGUAGE_MODEL}.xml").is_file():
            raise StageFailed(f"quantization.weights {choice['weights']} needs runtime.name openvino.")
        with quiet("transformers", "nncf", "openvino"):
            import nncf

            _rewrite(source, target, LANGUAGE_MODEL, **_language_settings(choice, source, samples))
            _rewrite(source, target, TEXT_EMBEDDINGS, mode=nncf.CompressWeightsMode.INT8_ASYM)
            _rewrite(
                source,
                target,
                VISION_EMBEDDINGS,
                mode=nncf.CompressWeightsMode.INT8_ASYM,
                ignored_scope=nncf.IgnoredScope(patterns=[_PROJECTOR]),
            )
        link_others(source, target, (LANGUAGE_MODEL, TEXT_EMBEDDINGS, VISION_EMBEDDINGS))


def nearest_group(widths: Sequence[int], wanted: int) -> int | None:
    """The group size nearest to ``wanted``, of those on offer, that divides every width; null where none does."""
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    return min(fitting, key=lambda size: (abs(size - wanted), size), default=None)


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


def _language_settings(choice: Choice, source: Path, samples: Samples) -> dict[str, Any]:
    import nncf

    if choice["weights"] == "int8":
        return {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    settings = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": int(choice["group_size"]), "ratio": 1.0}
    if not choice["calibrated"]:
        return settings
    chosen = samples.get("calibration", ())[:CALIBRATION_LIMIT]
    if not chosen:
        raise StageFailed("quantization.calibrated needs the split `calibration`, and the task has none.")
    data = nncf.Dataset(list(calibration_inputs(source, chosen)))
    return settings | {"dataset": data, "subset_size": len(chosen), "awq": True, "scale_estimation": True}


def _rewrite(source: Path, target: Path, graph: str, **settings: Any) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(source / f"{graph}.xml")
    try:
        compressed = nncf.compress_weights(model, **settings)
    except nncf.InvalidGroupSizeError:
        raise StageFailed(_misfit(source, int(settings["group_size"]))) from None
    save_graph(compressed, target / f"{graph}.xml")


def _misfit(source: Path, wanted: int) -> str:
    widths = _row_widths(read_json(source / "config.json")["text_config"])
    nearest = nearest_group(widths, wanted)
    cure = f"take {nearest}" if nearest else "take int8, or prune to multiples of 32"
    listed = ", ".join(str(width) for width in sorted(set(widths)))
    return f"quantization.group_size {wanted} does not divide the language model's widths ({listed}): {cure}."


def _row_widths(text: Mapping[str, Any]) -> list[int]:
    """The row lengths of a language model's linear layers: hidden, heads together, FFN."""
    heads = int(text["num_attention_heads"])
    head = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    return [int(text["hidden_size"]), heads * head, int(text["intermediate_size"])]


AXIS = Quantization()
