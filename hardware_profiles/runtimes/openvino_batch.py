"""Batched greedy answering over the exported OpenVINO graphs of a LLaVA-layout model: the scoring path.

GenAI encodes images one by one, and its continuous batching gains nothing on one thread. Here the same graphs run with
the same properties: vision in batches, then left-padded prompts of like length through the stateful language model. The
graph is changed in one way, as GenAI does for the head: behind the last attention only the last position is computed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.messages import Answer
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.images import Fit, fitted, normalised
from spaces.errors import BadInput

VISION_BATCH = 8
LANGUAGE_BATCH = 32
LANGUAGE_TOKENS = 2560  # of all rows of a batch: bounds memory where prompts are long
_INPUTS = {"inputs_embeds", "attention_mask", "position_ids", "beam_idx"}


class BatchedEngine:
    """The exported models of one folder, compiled for batches."""

    def __init__(self, folder: Path, fit: Fit, pins: Mapping[str, Any], tokenizer: Any, config: Any) -> None:
        import openvino as ov

        core = ov.Core()
        language = core.read_model(folder / "openvino_language_model.xml")
        names = {name for port in language.inputs for name in port.get_names()}
        if names != _INPUTS:
            raise ValueError(f"the language model takes {sorted(names)}, not {sorted(_INPUTS)}")
        keep_last_position(language)
        properties = dict(pins)
        models = {"language": language} | {
            part: folder / f"openvino_{part}_embeddings_model.xml" for part in ("vision", "text")
        }
        compiled = {part: core.compile_model(model, "CPU", properties) for part, model in models.items()}
        for part, model in compiled.items():
            check_pins(part, {key: as_text(model.get_property(key)) for key in pins}, pins, folder)
        self._language, self._vision, self._embed = (model.create_infer_request() for model in compiled.values())
        self._fit, self._tokenizer = fit, tokenizer
        config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._image_token = int(config_json.get("image_token_id", config_json.get("image_token_index")))
        self._visual_tokens = int(config_json["image_seq_length"])
        self._ends = np.array(sorted(config.stop_token_ids))
        self._cap = int(config.max_new_tokens)

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether the folder holds a model of the layout that this engine knows."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config.get("model_type") == "llava" and "image_seq_length" in config

    def answer_many(self, questions: Sequence[Question]) -> tuple[list[Answer], list[float]]:
        """Answers in the order of ``questions``, and each one's margin.

        The margin of an answer is the least distance, over its tokens, between the best logit and the second best.
        """
        prompts = self._tokens([question.prompt for question in questions])
        order = sorted(range(len(questions)), key=lambda row: len(prompts[row]))
        longest = len(prompts[order[-1]]) + self._visual_tokens
        answers: dict[int, Answer] = {}
        margins: dict[int, float] = {}
        for rows in _batches(order, max(1, min(LANGUAGE_BATCH, LANGUAGE_TOKENS // longest))):
            visual = self._see([questions[row] for row in rows])
            generated, distances = self._generate(*self._lay_out([prompts[row] for row in rows], visual))
            texts = self._tokenizer.decode([tokens.tolist() for tokens in generated])
            for row, tokens, text, distance in zip(rows, generated, texts, distances, strict=True):
                answers[row] = Answer(id=questions[row].id, text=str(text), tokens=len(tokens))
                margins[row] = distance
        every = range(len(questions))
        return [answers[row] for row in every], [margins[row] for row in every]

    def _tokens(self, prompts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids of each rendered chat, the image's place still one token."""
        chats = [[{"role": "user", "content": f"<image>\n{prompt}"}] for prompt in prompts]
        texts = [self._tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        encoded = self._tokenizer.encode(texts, add_special_tokens=False)
        rows = zip(encoded.input_ids.data, encoded.attention_mask.data, strict=True)
        return [ids[mask.astype(bool)] for ids, mask in rows]

    def _see(self, questions: Sequence[Question]) -> list[npt.NDArray[np.float32]]:
        """Visual tokens (V, D) of each question's image."""
        images = [fitted(question.image_HWC, self._fit) for question in questions]
        visual: list[npt.NDArray[np.float32]] = []
        for rows in _batches(range(len(images)), VISION_BATCH):
            self._vision.infer({0: normalised([images[row] for row in rows], self._fit)})
            visual += list(self._vision.get_output_tensor(0).data.copy())
        return visual

    def _lay_out(
        self, prompts: Sequence[npt.NDArray[np.int64]], visual: Sequence[npt.NDArray[np.float32]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Embeddings (B, T, D) with the visual tokens in place, left-padded, and their mask (B, T)."""
        spread = [
            np.repeat(ids, np.where(ids == self._image_token, len(seen), 1))
            for ids, seen in zip(prompts, visual, strict=True)
        ]
        longest = max(map(len, spread))
        ids_BT = np.stack([np.pad(ids, (longest - len(ids), 0)) for ids in spread])
        mask_BT = np.stack([np.arange(longest) >= longest - len(ids) for ids in spread])
        self._embed.infer({0: ids_BT})
        embedded = self._embed.get_output_tensor(0).data.copy()
        embedded[(ids_BT == self._image_token) & mask_BT] = np.concatenate(visual)
        return embedded, mask_BT.astype(np.int64)

    def _generate(
        self,
        embedded_BTD: npt.NDArray[np.float32],
        mask_BT: npt.NDArray[np.int64],
    ) -> tuple[list[npt.NDArray[np.int64]], list[float]]:
        """Greedy tokens of each row, the end token included, and the least margin among them."""
        batch = len(mask_BT)
        position = np.maximum(mask_BT.cumsum(1) - 1, 0)
        beam = np.arange(batch, dtype=np.int32)
        made = np.zeros((batch, 0), np.int64)
        margins = np.zeros((batch, 0), np.float32)
        self._language.reset_state()
        while True:
            self._language.infer(
                {"inputs_embeds": embedded_BTD, "attention_mask": mask_BT, "position_ids": position, "beam_idx": beam}
            )
            logits = self._language.get_tensor("logits").data[:, -1]
            if not np.isfinite(logits).all():
                raise FloatingPointError("the model's logits are not finite")
            made = np.concatenate([made, logits.argmax(-1)[:, None]], axis=1)
            second, best = np.partition(logits, -2, axis=-1)[:, -2:].T
            margins = np.concatenate([margins, (best - second)[:, None]], axis=1)
            ended = np.isin(made, self._ends)
            if made.shape[1] == self._cap or ended.any(1).all():
                lengths = np.where(ended.any(1), ended.argmax(1) + 1, made.shape[1])
                within = np.arange(made.shape[1]) < lengths[:, None]
                least = np.where(within, margins, np.inf).min(1)
                return [row[:length] for row, length in zip(made, lengths, strict=True)], least.tolist()
            self._embed.infer({0: np.ascontiguousarray(made[:, -1:])})
            embedded_BTD = self._embed.get_output_tensor(0).data
            mask_BT = np.concatenate([mask_BT, np.ones((batch, 1), np.int64)], axis=1)
            position = position[:, -1:] + 1


def as_text(value: Any) -> str:
    """A compiled model's property as GenAI's report prints it: ``f32`` for an element type."""
    return str(value.to_string() if hasattr(value, "to_string") else value)


def check_pins(part: str, reported: Mapping[str, str], pins: Mapping[str, Any], folder: Path) -> None:
    """Compare what a model says of itself with what it was to run with.

    Raises:
        BadInput: naming the first property that is another one.
    """
    for key, pinned in pins.items():
        if reported.get(key) != str(pinned):
            raise BadInput(
                f"{folder} pins {key} to {pinned}, but openvino runs its {part} model with "
                f"{reported.get(key, 'no such report')}; this device cannot run the bundle as it was searched."
            )


def keep_last_position(model: Any) -> bool:
    """Cut hidden states (B, T, D) to (B, 1, D) behind the last attention; false where the graph has another shape.

    What follows the residual sum of the last attention (feed-forward, norm, head) treats each position by itself, and
    only the last one's logits are read: nothing that is read changes.
    """
    from openvino import opset13 as ops

    attentions = [node for node in model.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    node = attentions[-1] if attentions else None
    for kind in ("Transpose", "Reshape", "MatMul"):
        node = _only_consumer(node, kind)
    residual = _only_consumer(node, "Add")
    if residual is not None and any(port.get_node().get_type_name() == "Constant" for port in residual.input_values()):
        residual = _only_consumer(residual, "Add")
    if residual is None:
        return False
    readers = residual.output(0).get_target_inputs()
    last = ops.slice(residual, [-1], [np.iinfo(np.int32).max], [1], [1])
    for reader in readers:
        reader.replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
    return True


def _only_consumer(node: Any, kind: str) -> Any:
    readers = list(node.output(0).get_target_inputs()) if node is not None else []
    found = readers[0].get_node() if len(readers) == 1 else None
    return found if found is not None and found.get_type_name() == kind else None


def _batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
