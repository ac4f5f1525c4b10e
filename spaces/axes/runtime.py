"""The axis of the runtime: the export of a checkpoint, and the execution settings that the manifest pins."""

import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from spaces.axes import Choice, Domain, Samples
from spaces.axes.checkpoint import load_strict
from spaces.axes.dead_heads import remove_dead_heads
from spaces.axes.files import (
    DETOKENIZER,
    LANGUAGE_MODEL,
    SIDE_FILES,
    TEXT_EMBEDDINGS,
    TOKENIZER,
    VISION_EMBEDDINGS,
    link,
    link_all,
    read_json,
    write_json,
)
from spaces.axes.graphs import save_graph, save_half
from spaces.axes.layout import Layout
from spaces.axes.model import weight_files
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed


class Runtime:
    """Knob ``name`` (openvino, torch) picks the export; the others are execution settings and leave the artifact alone.

    ``openvino``: language model, text embeddings, vision tower with projector, tokenizer and detokenizer as OpenVINO IR
    with fp16 weights, and the JSON files that openvino_genai reads. Any other runtime gets the checkpoint as it is.
    """

    name = "runtime"
    version = 1
    tools: tuple[str, ...] = ("torch", "transformers", "optimum", "optimum-intel", "openvino", "openvino-tokenizers")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "name": Domain(kind="text", default="openvino", help="what runs the bundle: openvino, torch or a plug-in"),
            "threads": Domain(kind="int", default=1, low=1, high=1024, help="CPU threads", bound=True),
            "inference_precision": Domain(
                kind="choice", default="f32", values=("f32", "bf16", "f16"), help="type of the arithmetic", bound=True
            ),
            "kv_cache_precision": Domain(
                kind="choice",
                default="f32",
                values=("f32", "f16", "bf16", "u8"),
                help="type of the KV cache",
                bound=True,
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:  # noqa: ARG002
        return True

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Exports the checkpoint in ``source``; only ``name`` of the choice matters, the others are bound later.

        Raises:
            StageFailed: the checkpoint does not load strictly, its tokenizer has no OpenVINO form, or its chat template
                does not take plain text.
        """
        if choice["name"] == "openvino":
            _export(source, target)
        else:
            link_all(source, target, (*SIDE_FILES, *weight_files(source)))


def _export(source: Path, target: Path) -> None:
    Layout(source).prompt_ids("what is this")
    model = load_strict(source, "float32")
    remove_dead_heads(model)
    work = target / "export.part"
    with quiet("transformers", "nncf", "optimum.exporters.openvino", "openvino"), _frozen_garbage():
        import openvino
        from optimum.exporters.openvino import export_from_model
        from optimum.intel.openvino.configuration import OVConfig

        export_from_model(
            model, work, task="image-text-to-text", ov_config=OVConfig(dtype="fp32"), stateful=True, preprocessors=[]
        )
        core = openvino.Core()
        for name in (LANGUAGE_MODEL, TEXT_EMBEDDINGS, VISION_EMBEDDINGS):
            save_half(core.read_model(work / f"{name}.xml"), target / f"{name}.xml")
    shutil.rmtree(work)
    _export_tokenizer(source, target)
    _write_side_files(source, target)


def _export_tokenizer(source: Path, target: Path) -> None:
    with quiet("transformers", "openvino_tokenizers", "openvino"):
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        words.padding_side = words.truncation_side = "left"
        try:
            graphs = convert_tokenizer(words, with_detokenizer=True)
        except Exception as error:
            raise StageFailed(f"the tokenizer {type(words).__name__} has no OpenVINO form ({error}).") from error
        for graph, name in zip(graphs, (TOKENIZER, DETOKENIZER), strict=True):
            save_graph(graph, target / f"{name}.xml")


def _write_side_files(source: Path, target: Path) -> None:
    """JSON as openvino_genai reads it: image sizes in the preprocessor's, the chat template in the tokenizer's."""
    for name in SIDE_FILES:
        if (source / name).is_file() and not name.startswith("chat_template"):
            link(source / name, target / name)
    vision = read_json(source / "config.json")["vision_config"]
    side = int(vision["image_size"])
    images = read_json(source / "preprocessor_config.json")
    sizes = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_size": side,
        "patch_size": int(vision["patch_size"]),
    }
    if any(name not in images for name in sizes):
        write_json(target / "preprocessor_config.json", {**sizes, **images})
    words = read_json(source / "tokenizer_config.json")
    template = source / "chat_template.jinja"
    if template.is_file():
        write_json(target / "tokenizer_config.json", {**words, "chat_template": template.read_text(encoding="utf-8")})


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Keeps the collector off what is loaded already: the exporter collects after every graph, seconds for nothing."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


AXIS = Runtime()
