"""The axis of the runtime: the export of a checkpoint, and the execution settings that the manifest pins."""

import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from spaces.axes import Choice, Domain, Samples, Value
from spaces.axes.checkpoint import load_strict
from spaces.axes.dead_heads import remove_dead_heads
from spaces.axes.files import (
    DETOKENIZER,
    LANGUAGE_MODEL,
    SIDE_FILES,
    TEXT_EMBEDDINGS,
    TOKENIZER,
    VISION_EMBEDDINGS,
    link_all,
)
from spaces.axes.graphs import save_graph, save_half
from spaces.axes.layout import Layout
from spaces.axes.model import weight_files
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from spaces.serving import SERVER

_SERVED: Mapping[str, tuple[Value, ...]] = MappingProxyType({"name": (SERVER,)})


class Runtime:
    """Knob ``name`` (openvino, torch, server) picks the export; the others are bound later, the artifact has none.

    ``openvino``: language model, text embeddings, vision tower with projector, tokenizer and detokenizer as OpenVINO IR
    with fp16 weights, and the JSON files that openvino_genai reads. Any other runtime gets the checkpoint as it is.

    A ``server`` is one that the target device starts by its own configuration: a candidate names it (``server``), and
    its threads and precisions are its own, so that these knobs do not count with it.
    """

    name = "runtime"
    version = 2
    tools: tuple[str, ...] = ("torch", "transformers", "optimum", "optimum-intel", "openvino", "openvino-tokenizers")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "name": Domain(kind="text", default="openvino", help="what runs it: openvino, torch, server or a plug-in"),
            "server": Domain(
                kind="text", default="", when=_SERVED, help="name of a server in the device's servers.json", bound=True
            ),
            "device": Domain(
                kind="choice",
                default="cpu",
                values=("cpu", "cuda"),
                unless=_SERVED,
                help="what computes: cpu, or cuda (torch on an NVIDIA GPU)",
                bound=True,
            ),
            "threads": Domain(kind="int", default=1, low=1, high=1024, unless=_SERVED, help="CPU threads", bound=True),
            "inference_precision": Domain(
                kind="choice",
                default="f32",
                values=("f32", "bf16", "f16"),
                unless=_SERVED,
                help="type of the arithmetic",
                bound=True,
            ),
            "kv_cache_precision": Domain(
                kind="choice",
                default="f32",
                values=("f32", "f16", "bf16", "u8"),
                unless=_SERVED,
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
    prompt = Layout(source).prompt("what is this")
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
    _export_tokenizer(source, target, prompt)
    link_all(source, target, SIDE_FILES)


def _export_tokenizer(source: Path, target: Path, prompt: str) -> None:
    """Tokenizer and detokenizer as graphs; the former has to read the rendered ``prompt`` as the checkpoint's does."""
    with quiet("transformers", "openvino_tokenizers", "openvino"):
        import openvino
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        words.padding_side = words.truncation_side = "left"
        try:
            graphs = convert_tokenizer(words, with_detokenizer=True)
        except Exception as error:
            raise StageFailed(f"the tokenizer {type(words).__name__} has no OpenVINO form ({error}).") from error
        read = openvino.compile_model(graphs[0], "CPU")([prompt])["input_ids"][0].tolist()
        if read != list(words(prompt)["input_ids"]):
            raise StageFailed(f"the OpenVINO form of the tokenizer reads the prompt {prompt!r} as other tokens.")
        for graph, name in zip(graphs, (TOKENIZER, DETOKENIZER), strict=True):
            save_graph(graph, target / f"{name}.xml")


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
