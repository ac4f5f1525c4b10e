"""The reference runtime: transformers on torch, weights as saved, computed as pinned on the CPU or on a CUDA GPU.

On a GPU every stamp waits for it first: torch returns when work is queued, not when it is done. ``generate`` waits once
a token by itself, to see whether the answer has ended; between vision and prefill the wait is ours, and costs what
queueing the prefill meanwhile would have saved.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hardware_profiles.bundle import PRECISIONS, Bundle
from hardware_profiles.messages import Answer, Timing
from hardware_profiles.runtimes import Question, cuda
from hardware_profiles.runtimes.chat import chat, check_length, positions
from spaces.errors import BadInput

NEEDED = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
BATCH = 32
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class TorchRuntime:
    """Loads a LLaVA-layout Hugging Face folder."""

    name = "torch"
    capabilities: Mapping[str, tuple[Any, ...]] = {
        "quantization.weights": ("fp16",),
        "quantization.vision": ("fp16",),
        "quantization.projector": ("fp16",),
        "visual_tokens.keep": (1.0,),
        "prompt.exemplar_choice": ("fixed", "random"),
        "runtime.device": ("cpu", "cuda"),
        "runtime.inference_precision": PRECISIONS,
        "runtime.kv_cache_precision": PRECISIONS,
    }

    def prepare(self) -> None:
        import torch  # noqa: F401
        import transformers  # noqa: F401

    def load(self, bundle: Bundle) -> "TorchSession":
        return TorchSession(bundle)


class TorchSession:
    """A loaded checkpoint. Threads are set for the whole process."""

    def __init__(self, bundle: Bundle) -> None:
        for name in NEEDED:
            if not (bundle.folder / name).is_file():
                raise BadInput(f"{bundle.folder / name} is missing, which torch needs; save the model again.")
        execution = bundle.manifest.execution
        if execution.inference_precision != execution.kv_cache_precision:
            raise BadInput(
                f"{bundle.folder} pins {execution.inference_precision} arithmetic and a KV cache of "
                f"{execution.kv_cache_precision}, which torch keeps in the type of the arithmetic; pin both alike."
            )
        import torch
        import transformers

        torch.set_num_threads(execution.threads)
        self._device = execution.device
        if self._device == "cuda":
            cuda.refuse_without()
            cuda.settle()
        model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
            bundle.folder,
            dtype=getattr(torch, DTYPES[execution.inference_precision]),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        check_loading(bundle.folder, info)
        self._model: Any = model.eval().to(self._device)
        self._processor: Any = transformers.AutoProcessor.from_pretrained(
            bundle.folder, local_files_only=True, trust_remote_code=False
        )
        self._processor.tokenizer.padding_side = "left"
        self._cap = bundle.manifest.max_new_tokens
        self._positions = positions(bundle.folder)

    @property
    def properties(self) -> Mapping[str, str]:
        """What torch reports of itself, and of the GPU where it computes there."""
        import torch
        import transformers

        found = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": str(torch.get_num_threads()),
            "dtype": str(self._model.dtype),
            "device": str(self._model.device),
        }
        return found | cuda.report() if self._device == "cuda" else found

    def accelerator_peak_bytes(self) -> int | None:
        """See ``Session``; null on the CPU."""
        return cuda.memory_peak_bytes() if self._device == "cuda" else None

    def answer(self, question: Question) -> Timing:
        """See ``Session.answer``. Vision (with projector) and prefill are timed by hooks on the modules."""
        clock = _Clock(cuda.synchronize if self._device == "cuda" else lambda: None)
        inner = self._model.model
        hooks = [
            inner.vision_tower.register_forward_pre_hook(clock.mark("vision")),
            inner.multi_modal_projector.register_forward_hook(clock.mark("seen")),
        ]
        try:
            inputs = self._inputs([question])
            clock.marks["ready"] = clock.now()
            generated = self._generate(inputs, clock)
        finally:
            for hook in hooks:
                hook.remove()
        text = self._processor.tokenizer.decode(generated[0], skip_special_tokens=True)
        marks = clock.marks
        return Timing(
            id=question.id,
            text=str(text),
            preprocess_ms=marks["ready"],
            vision_ms=marks["seen"] - marks["vision"],
            prefill_ms=clock.tokens[0] - marks["seen"],
            ttft_ms=clock.tokens[0],
            e2e_ms=clock.now(),
            token_ms=tuple(clock.tokens),
        )

    def answer_many(self, questions: Sequence[Question], batch: int = BATCH) -> list[Answer]:
        """See ``Session.answer_many``; ``batch`` questions at a time, left-padded."""
        tokenizer = self._processor.tokenizer
        answers = []
        for start in range(0, len(questions), batch):
            chosen = questions[start : start + batch]
            generated = self._generate(self._inputs(chosen), None)
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
            counts = [self._length(row.tolist()) for row in generated]
            answers += [
                Answer(id=question.id, text=str(text), tokens=count)
                for question, text, count in zip(chosen, texts, counts, strict=True)
            ]
        return answers

    def _length(self, tokens: list[int]) -> int:
        """How many tokens an answer has, the end token included; what follows it is padding."""
        ends = self._model.generation_config.eos_token_id
        places = [tokens.index(end) for end in (ends if isinstance(ends, list) else [ends]) if end in tokens]
        return min(places, default=len(tokens) - 1) + 1

    def _inputs(self, questions: Sequence[Question]) -> Any:
        template = self._processor.tokenizer.apply_chat_template
        if any(question.retrieve for question in questions):
            raise BadInput("torch finds no nearest exemplars; use the openvino runtime for this bundle.")
        texts = [template(chat(q, q.examples), add_generation_prompt=True, tokenize=False) for q in questions]
        images = [image for q in questions for image in (*(example.image_HWC for example in q.examples), q.image_HWC)]
        inputs = self._processor(images=images, text=texts, padding=True, add_special_tokens=False, return_tensors="pt")
        if any(question.examples for question in questions):
            check_length(inputs["input_ids"].shape[1] + self._cap, self._positions)
        return inputs.to(self._device, self._model.dtype)

    def _generate(self, inputs: Any, clock: "_Clock | None") -> Any:
        """Generated token ids (B, T), without the prompt."""
        import torch

        with torch.inference_mode():
            made = self._model.generate(
                **inputs,
                max_new_tokens=self._cap,
                do_sample=False,
                stopping_criteria=[clock.stamp] if clock else None,
                logits_processor=None if clock else [_refuse_nan],
            )
        return made[:, inputs["input_ids"].shape[1] :]


def _refuse_nan(input_ids: Any, scores: Any) -> Any:  # noqa: ARG001
    """A logits processor that changes nothing. Only scoring looks, so that what is timed is what will be deployed."""
    if scores.isnan().any():
        raise FloatingPointError("the model's logits are not numbers")
    return scores


class _Clock:
    """Milliseconds since it was made: named marks, and one stamp for each generated token.

    ``wait`` is called before every look: it returns once what was asked so far is done.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._start = time.perf_counter()
        self.marks: dict[str, float] = {}
        self.tokens: list[float] = []

    def now(self) -> float:
        self._wait()
        return (time.perf_counter() - self._start) * 1e3

    def mark(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            self.marks[name] = self.now()

        return hook

    def stamp(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002
        """A stopping criterion that never stops: called once with each new token."""
        self.tokens.append(self.now())
        return input_ids.new_zeros(len(input_ids)).bool()


def check_loading(folder: Any, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with weights missing, left over or of another shape: transformers fills them in at random.

    Raises:
        BadInput: naming up to three of the weights.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(kind, ()))
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise BadInput(f"{folder} does not load whole ({kind.replace('_', ' ')}: {some}); save the model again.")
