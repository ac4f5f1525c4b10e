"""The exported OpenVINO graphs of a LLaVA-layout model, run directly: vision, layout of prompts, greedy decoding.

The language graph is changed in one way, as GenAI does for the head: behind the last attention only the last position
is computed. Its state (the keys and values of all positions so far) can be kept and put back, for one row or many.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.runtimes.chat import Turn, positions
from spaces.errors import BadInput
from spaces.fitting import Fit, normalised
from spaces.images import Pixels

VISION_BATCH = 8
_INPUTS = {"inputs_embeds", "attention_mask", "position_ids", "beam_idx"}
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What the language model holds after the beginning of a prompt.

    Attributes:
        ids: its token ids, each image's place one token.
        length: its positions, visual tokens counted.
        states: keys and values by layer, each with one row.
    """

    ids: Ids
    length: int
    states: tuple[npt.NDArray[Any], ...]

    def begins(self, ids: Ids) -> bool:
        """Whether a prompt really begins with it, token by token."""
        return len(ids) > len(self.ids) and np.array_equal(ids[: len(self.ids)], self.ids)


class Graphs:
    """The exported models of one folder, compiled with pinned properties that they report back.

    Attributes:
        reported: what the compiled models say of the pinned properties, ``language.INFERENCE_PRECISION_HINT``.
        visual_tokens: of one image: as the last one had, before that as the configuration says.
        positions: how many tokens the language model has positions for; null where it does not say.
        seen: images that went through the vision graph.
        vision_ms: time that they took, normalisation included.
        prefilled: positions of prompts that went through the language graph, padding included.
    """

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
        self.reported: dict[str, str] = {}
        for part, model in compiled.items():
            values = {key: as_text(model.get_property(key)) for key in pins}
            check_pins(part, values, pins, folder)
            self.reported |= {f"{part}.{key}": value for key, value in values.items()}
        self._language, self._vision, self._embed = (model.create_infer_request() for model in compiled.values())
        self._fit, self._tokenizer = fit, tokenizer
        config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._image_token = int(config_json.get("image_token_id", config_json.get("image_token_index")))
        self.visual_tokens = int(config_json["image_seq_length"])
        self.positions = positions(folder)
        self._ends = np.array(sorted(config.stop_token_ids))
        self.cap = int(config.max_new_tokens)
        self.seen = self.prefilled = 0
        self.vision_ms = 0.0

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether the folder holds a model of the layout that is known here."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config.get("model_type") == "llava" and "image_seq_length" in config

    def tokens(self, chats: Sequence[Sequence[Turn]], *, ask: bool = True) -> list[Ids]:
        """Token ids of each rendered chat, an image's place still one token; ``ask``: the assistant is to go on.

        Raises:
            BadInput: a text holds what stands for an image.
        """
        texts = [self._tokenizer.apply_chat_template(list(turns), add_generation_prompt=ask) for turns in chats]
        encoded = self._tokenizer.encode(texts, add_special_tokens=False)
        rows = zip(encoded.input_ids.data, encoded.attention_mask.data, strict=True)
        made = [ids[mask.astype(bool)] for ids, mask in rows]
        for ids, turns in zip(made, chats, strict=True):
            if (ids == self._image_token).sum() != sum(turn["role"] == "user" for turn in turns):
                raise BadInput("a question, template or answer holds the text that stands for an image; take it out.")
        return made

    def text(self, rows: Sequence[Ids]) -> list[str]:
        """The texts of generated tokens."""
        return [str(text) for text in self._tokenizer.decode([row.tolist() for row in rows])]

    def see(self, images: Sequence[Pixels]) -> list[Floats]:
        """Visual tokens (V, D) of each fitted image."""
        begun = time.perf_counter()
        visual: list[Floats] = []
        for some in batches(images, VISION_BATCH):
            self._vision.infer({0: normalised(list(some), self._fit)})
            visual += list(self._vision.get_output_tensor(0).data.copy())
        self.visual_tokens = len(visual[0]) if visual else self.visual_tokens
        self.seen += len(images)
        self.vision_ms += (time.perf_counter() - begun) * 1e3
        return visual

    def lay_out(self, prompts: Sequence[Ids], visual: Sequence[Sequence[Floats]]) -> tuple[Floats, Ids]:
        """Embeddings (B, T, D) with each prompt's visual tokens in place, left-padded, and their mask (B, T)."""
        spread = []
        for ids, seen in zip(prompts, visual, strict=True):
            counts = np.ones(len(ids), np.int64)
            counts[ids == self._image_token] = [len(tokens) for tokens in seen]
            spread.append(np.repeat(ids, counts))
        longest = max(map(len, spread))
        ids_BT = np.stack([np.pad(ids, (longest - len(ids), 0)) for ids in spread])
        mask_BT = np.stack([np.arange(longest) >= longest - len(ids) for ids in spread])
        self._embed.infer({0: ids_BT})
        embedded = self._embed.get_output_tensor(0).data.copy()
        every = [tokens for seen in visual for tokens in seen]
        if every:
            embedded[(ids_BT == self._image_token) & mask_BT] = np.concatenate(every)
        return embedded, mask_BT.astype(np.int64)

    def prefix(self, ids: Ids, visual: Sequence[Floats]) -> Prefix:
        """The language model's state behind the beginning of a prompt."""
        embedded_BTD, mask_BT = self.lay_out([ids], [visual])
        self._language.reset_state()
        self._infer(embedded_BTD, mask_BT, mask_BT.cumsum(1) - 1)
        self.prefilled += mask_BT.size
        states = tuple(np.array(state.state.data) for state in self._language.query_state())
        return Prefix(ids=ids, length=mask_BT.shape[1], states=states)

    def generate(
        self,
        embedded_BTD: Floats,
        mask_BT: Ids,
        prefix: Prefix | None = None,
        stamp: Callable[[], None] = lambda: None,
    ) -> tuple[list[Ids], list[float]]:
        """Greedy tokens of each row, the end token included, and the least margin among them.

        The margin of a token is the distance between the best logit and the second best. Rows may share a ``prefix``:
        what is embedded then follows it, and padding between is masked. ``stamp`` is called with each token.
        """
        batch = len(mask_BT)
        self._language.reset_state()
        past = 0
        if prefix is not None:
            past = prefix.length
            self._restore(prefix, batch)
            mask_BT = np.concatenate([np.ones((batch, past), np.int64), mask_BT], axis=1)
        position = np.maximum(mask_BT.cumsum(1) - 1, 0)[:, past:]
        made = np.zeros((batch, 0), np.int64)
        margins = np.zeros((batch, 0), np.float32)
        self.prefilled += position.size
        while True:
            logits = self._infer(embedded_BTD, mask_BT, position)
            if not np.isfinite(logits).all():
                raise FloatingPointError("the model's logits are not finite")
            made = np.concatenate([made, logits.argmax(-1)[:, None]], axis=1)
            stamp()
            second, best = np.partition(logits, -2, axis=-1)[:, -2:].T
            margins = np.concatenate([margins, (best - second)[:, None]], axis=1)
            ended = np.isin(made, self._ends)
            if made.shape[1] == self.cap or ended.any(1).all():
                lengths = np.where(ended.any(1), ended.argmax(1) + 1, made.shape[1])
                within = np.arange(made.shape[1]) < lengths[:, None]
                least = np.where(within, margins, np.inf).min(1)
                return [row[:length] for row, length in zip(made, lengths, strict=True)], least.tolist()
            self._embed.infer({0: np.ascontiguousarray(made[:, -1:])})
            embedded_BTD = self._embed.get_output_tensor(0).data
            mask_BT = np.concatenate([mask_BT, np.ones((batch, 1), np.int64)], axis=1)
            position = position[:, -1:] + 1

    def _infer(self, embedded_BTD: Floats, mask_BT: Ids, position_BT: Ids) -> Floats:
        """Logits (B, vocabulary) of the last position."""
        beam = np.arange(len(mask_BT), dtype=np.int32)
        self._language.infer(
            {"inputs_embeds": embedded_BTD, "attention_mask": mask_BT, "position_ids": position_BT, "beam_idx": beam}
        )
        logits: Floats = self._language.get_tensor("logits").data[:, -1]
        return logits

    def _restore(self, prefix: Prefix, batch: int) -> None:
        import openvino as ov

        for state, kept in zip(self._language.query_state(), prefix.states, strict=True):
            state.state = ov.Tensor(np.repeat(kept, batch, axis=0))


def batchable(pins: Mapping[str, Any]) -> bool:
    """Whether several rows may share a batch: with a u8 cache OpenVINO 2026.4 gives logits that are not finite then."""
    return bool(pins["KV_CACHE_PRECISION"] != "u8")


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


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
