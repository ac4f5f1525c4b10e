"""The default runtime: openvino_genai on a CPU, pinned as the manifest says and checked in the engine's own report.

The attention backend is fixed to ``SDPA``, the stateful graph as exported: batched scoring then runs the graph that is
timed, and ``PA`` leaves the tokenizer's threads unpinned and refuses a KV cache wider than the inference precision.
"""

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.bundle import Bundle, Execution
from hardware_profiles.messages import Answer, Timing
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.openvino_batch import BatchedEngine
from hardware_profiles.runtimes.openvino_graphs import batchable, check_pins
from spaces.errors import BadInput
from spaces.fitting import Fit, fitted
from spaces.signal_stack import kept_signal_stack
from spaces.telemetry import stop_telemetry

if TYPE_CHECKING:
    from hardware_profiles.runtimes.openvino_shots import FewShotSession

NEEDED = (
    "config.json",
    "preprocessor_config.json",
    "openvino_language_model.xml",
    "openvino_text_embeddings_model.xml",
    "openvino_vision_embeddings_model.xml",
    "openvino_tokenizer.xml",
    "openvino_detokenizer.xml",
)
PINNED_MODELS = {"language": "VLM language model", "vision": "VLM vision embeddings model"}


class OpenVINORuntime:
    """Loads an exported folder with ``openvino_genai.VLMPipeline``; its graphs themselves where exemplars are shown."""

    name = "openvino"
    capabilities: Mapping[str, tuple[Any, ...]] = {
        "quantization.weights": ("fp16", "int8", "int4"),
        "runtime.device": ("cpu",),
        "runtime.inference_precision": ("f32", "bf16"),
        "runtime.kv_cache_precision": ("f32", "f16", "bf16", "u8"),
    }

    def prepare(self) -> None:
        stop_telemetry()
        import openvino_genai  # noqa: F401

    def load(self, bundle: Bundle) -> "OpenVINOSession | FewShotSession":
        stop_telemetry()
        for name in NEEDED:
            if not (bundle.folder / name).is_file():
                raise BadInput(f"{bundle.folder / name} is missing, which openvino needs; export the bundle again.")
        if bundle.manifest.prompt.exemplars:
            from hardware_profiles.runtimes.openvino_shots import FewShotSession

            return FewShotSession(bundle, device_properties(bundle.manifest.execution))
        return OpenVINOSession(bundle)


class OpenVINOSession:
    """A loaded bundle; the batched engine beside it is loaded by the first ``answer_many``."""

    @kept_signal_stack()
    def __init__(self, bundle: Bundle) -> None:
        import openvino as ov
        import openvino_genai as genai

        self._folder = bundle.folder
        self._fit = Fit.read(bundle.folder)
        self._pins = device_properties(bundle.manifest.execution)
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "report.txt"
            with _stdout_to(report), _log_level("3"):
                self._pipeline = genai.VLMPipeline(str(bundle.folder), "CPU", ATTENTION_BACKEND="SDPA", **self._pins)
            models = sections(report.read_text(errors="replace"))
        self.properties = _checked(models, self._pins, bundle.folder) | {
            "openvino": str(ov.__version__),
            "openvino_genai": str(genai.__version__),
        }
        self._config = self._pipeline.get_generation_config()
        self._config.max_new_tokens = bundle.manifest.max_new_tokens
        self._config.do_sample = False
        self._batched: Any = None
        self._asked = False

    @kept_signal_stack()
    def answer(self, question: Question) -> Timing:
        """See ``Session.answer``. ``vision_ms`` includes GenAI's normalisation, ``preprocess_ms`` the text embedding.

        The first token's time is GenAI's own, from its call; later ones follow from its raw token timestamps (ms).
        """
        import openvino as ov

        if question.examples or question.retrieve:
            raise ValueError("a question with examples was asked of a bundle whose prompt shows none")
        start = time.perf_counter()
        image = ov.Tensor(fitted(question.image_HWC, self._fit)[None].copy())
        called = time.perf_counter()
        result = self._generate(question.prompt, image)
        text = str(result.texts[0])
        ended = time.perf_counter()
        raw, vlm = result.perf_metrics.raw_metrics, result.perf_metrics.vlm_raw_metrics
        own_ms = (called - start) * 1e3
        first_ms = own_ms + raw.m_times_to_first_token[0] / 1e3
        stamps = list(raw.m_new_token_times)
        vision_ms = sum(vlm.vision_encoding_durations) / 1e3
        text_ms = (sum(vlm.prepare_embeddings_durations) + sum(raw.chat_template_durations)) / 1e3 - vision_ms
        return Timing(
            id=question.id,
            text=text,
            preprocess_ms=own_ms + text_ms,
            vision_ms=vision_ms,
            prefill_ms=raw.token_infer_durations[0] / 1e3,
            ttft_ms=first_ms,
            e2e_ms=(ended - start) * 1e3,
            token_ms=tuple(first_ms + stamp - stamps[0] for stamp in stamps),
        )

    def _generate(self, prompt: str, image: Any) -> Any:
        if self._asked:
            return self._pipeline.generate(prompt, images=[image], generation_config=self._config)
        self._asked = True
        with _stdout_to(Path(os.devnull)):  # the raised log level lasts, and GenAI logs its first call
            return self._pipeline.generate(prompt, images=[image], generation_config=self._config)

    @kept_signal_stack()
    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """See ``Session.answer_many``. What has no batched engine is asked one by one, a quantized KV cache also."""
        from hardware_profiles.runtimes.openvino_draft import DraftingEngine

        if self._batched is None and batchable(self._pins) and BatchedEngine.fits(self._folder):
            self._batched = DraftingEngine(
                self._folder, self._fit, self._pins, self._pipeline.get_tokenizer(), self._config
            )
        if self._batched is None:
            timings = [self.answer(question) for question in questions]
            return [Answer(id=timing.id, text=timing.text, tokens=len(timing.token_ms)) for timing in timings]
        answers: list[Answer] = self._batched.answer_many(questions)
        self.properties["scoring.drafts"] = self._batched.note
        return answers


def device_properties(execution: Execution) -> dict[str, Any]:
    """OpenVINO's properties for these settings. Its defaults differ by CPU: bf16, u8 KV cache, int8 activations."""
    return {
        "INFERENCE_NUM_THREADS": execution.threads,
        "INFERENCE_PRECISION_HINT": execution.inference_precision,
        "KV_CACHE_PRECISION": execution.kv_cache_precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def sections(report: str) -> dict[str, dict[str, str]]:
    """What GenAI prints of its models (``utils::print_compiled_model_properties``): model -> property -> value."""
    models: dict[str, dict[str, str]] = {}
    for line in report.splitlines():
        key, colon, value = line.partition(": ")
        if key == "Model" and colon:
            current = models.setdefault(value.strip(), {})
        elif models and line.startswith("  ") and colon:
            current[key.strip()] = value.strip()
    return models


def _checked(models: Mapping[str, Mapping[str, str]], pins: Mapping[str, Any], folder: Path) -> dict[str, str]:
    properties: dict[str, str] = {}
    for short, model in PINNED_MODELS.items():
        reported = models.get(model, {})
        check_pins(short, reported, pins, folder)
        properties |= {f"{short}.{key}": reported[key] for key in pins}
    return properties


@contextmanager
def _stdout_to(path: Path) -> Iterator[None]:
    """Sends what the whole process prints on stdout to a file, for engines that print from C++."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept = os.dup(1)
    try:
        with path.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _log_level(level: str) -> Iterator[None]:
    before = os.environ.get("OPENVINO_LOG_LEVEL")
    os.environ["OPENVINO_LOG_LEVEL"] = level
    try:
        yield
    finally:
        os.environ.pop("OPENVINO_LOG_LEVEL")
        if before is not None:
            os.environ["OPENVINO_LOG_LEVEL"] = before
