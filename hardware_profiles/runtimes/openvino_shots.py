"""Answers to questions with examples, one by one and timed, over the exported OpenVINO graphs.

Questions that begin with the same examples share the language model's state behind them: only what is asked is
prefilled. Examples that hang on the image are encoded and prefilled with each question.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Answer, Timing
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.chat import chat, check_length
from hardware_profiles.runtimes.openvino_graphs import Graphs, batchable
from hardware_profiles.runtimes.openvino_prefixes import Prefixes
from spaces.errors import BadInput
from spaces.fitting import Fit, fitted
from spaces.signal_stack import kept_signal_stack


class FewShotSession:
    """A loaded bundle whose prompt shows examples; the engine for scoring is loaded by the first ``answer_many``.

    Attributes:
        caches: whether shared beginnings are kept; the benchmark turns it off to show what that saves.
    """

    @kept_signal_stack()
    def __init__(self, bundle: Bundle, pins: Mapping[str, Any]) -> None:
        if not Graphs.fits(bundle.folder):
            raise BadInput(
                f"{bundle.folder} shows exemplars, which openvino does for models in LLaVA layout only; "
                "search it with prompt.exemplars 0."
            )
        import openvino as ov
        import openvino_genai as genai

        self._folder, self._pins = bundle.folder, pins
        self._fit = Fit.read(bundle.folder)
        threads = pins["INFERENCE_NUM_THREADS"]
        self._tokenizer = genai.Tokenizer(str(bundle.folder), INFERENCE_NUM_THREADS=threads)
        self._config = _generation(bundle, self._tokenizer)
        self.graphs = Graphs(bundle.folder, self._fit, pins, self._tokenizer, self._config)
        self._prefixes = Prefixes(self.graphs, self._fit)
        self._scoring: Any = None
        self.caches = True
        self.properties = self.graphs.reported | {
            "openvino": str(ov.__version__),
            "openvino_genai": str(genai.__version__),
        }

    @kept_signal_stack()
    def answer(self, question: Question) -> Timing:
        """See ``Session.answer``. ``vision_ms`` includes normalisation and all images that had to be encoded.

        ``prefill_ms`` is that of the tokens behind a kept beginning; ``preprocess_ms`` is the rest before it: fitting,
        retrieval, tokens and their embeddings. The first question of a beginning also pays for that.
        """
        graphs, start, seen_ms = self.graphs, time.perf_counter(), self.graphs.vision_ms
        image = fitted(question.image_HWC, self._fit)
        visual = graphs.see([image])
        examples = question.retrieve(image, visual[0]) if question.retrieve else question.examples
        ids = graphs.tokens([chat(question, examples)])[0]
        images = len(examples) + 1
        check_length(len(ids) + (graphs.visual_tokens - 1) * images + graphs.cap, graphs.positions)
        prefix = self._prefixes.get(examples) if examples and self.caches and not question.retrieve else None
        if prefix and prefix.begins(ids):
            ids = ids[len(prefix.ids) :]
        else:
            prefix = None
            visual = [*graphs.see([fitted(one.image_HWC, self._fit) for one in examples]), *visual]
        laid_out = graphs.lay_out([ids], [visual])
        stamps: list[float] = []
        ready = time.perf_counter()
        generated, _ = graphs.generate(*laid_out, prefix, lambda: stamps.append(time.perf_counter()))
        text = graphs.text(generated)[0]
        ended = time.perf_counter()
        vision_ms = graphs.vision_ms - seen_ms
        return Timing(
            id=question.id,
            text=text,
            preprocess_ms=(ready - start) * 1e3 - vision_ms,
            vision_ms=vision_ms,
            prefill_ms=(stamps[0] - ready) * 1e3,
            ttft_ms=(stamps[0] - start) * 1e3,
            e2e_ms=(ended - start) * 1e3,
            token_ms=tuple((stamp - start) * 1e3 for stamp in stamps),
        )

    @kept_signal_stack()
    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """See ``Session.answer_many``."""
        if not batchable(self._pins):
            timings = [self.answer(question) for question in questions]
            return [Answer(id=timing.id, text=timing.text, tokens=len(timing.token_ms)) for timing in timings]
        from hardware_profiles.runtimes.openvino_draft import DraftingEngine

        if self._scoring is None:
            self._scoring = DraftingEngine(self._folder, self._fit, self._pins, self._tokenizer, self._config)
        answers: list[Answer] = self._scoring.answer_many(questions)
        self.properties["scoring.drafts"] = self._scoring.note
        return answers


def _generation(bundle: Bundle, tokenizer: Any) -> Any:
    """The end tokens and the longest answer, as ``VLMPipeline`` reads them."""
    import openvino_genai as genai

    path = bundle.folder / "generation_config.json"
    config = genai.GenerationConfig(str(path)) if path.is_file() else genai.GenerationConfig()
    if config.eos_token_id == -1:
        config.set_eos_token_id(tokenizer.get_eos_token_id())
    config.max_new_tokens = bundle.manifest.max_new_tokens
    return config
