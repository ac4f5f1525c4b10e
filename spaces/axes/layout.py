"""Questions, answers and images as the deployed pipeline lays them out: for tuning and for calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from spaces.axes.files import read_json
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from spaces.images import read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """Tokenizer and image processor of one checkpoint or exported folder.

    openvino_genai puts the image token and a line break before the question, renders the chat template over that one
    plain-text message, and replaces the image token by the image's embeddings; so do we.
    """

    folder: Path

    @cached_property
    def _tokenizer(self) -> Any:
        with quiet("transformers"):
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @cached_property
    def _processor(self) -> Any:
        with quiet("transformers"):
            from transformers.models.auto.image_processing_auto import AutoImageProcessor

            return AutoImageProcessor.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )

    @cached_property
    def image_token(self) -> int:
        """The token id that stands for the image."""
        config = read_json(self.folder / "config.json")
        return int(config.get("image_token_index", config.get("image_token_id")))

    def prompt(self, question: str) -> str:
        """The prompt as the chat template renders it, the image token in it exactly once.

        Raises:
            StageFailed: the chat template does not take plain text, or the prompt has no or several image tokens.
        """
        text = self._rendered([_user(self._with_image(question))], prompt=True)
        if question.strip() not in text:
            raise StageFailed("the chat template drops plain-text messages: give a text-only template.")
        count = self._ids(text).count(self.image_token)
        if count != 1:
            raise StageFailed(f"a prompt has {count} image tokens instead of one.")
        return text

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the prompt.

        Raises:
            StageFailed: as `prompt`.
        """
        return self._ids(self.prompt(question))

    def prompt_and_answer_ids(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the answer up to and with the end token.

        Where the template has a turn for the assistant the answer is laid out by it, else it follows the prompt.

        Raises:
            StageFailed: as `prompt_ids`.
        """
        prompt = self.prompt_ids(question)
        user = _user(self._with_image(question))
        text = self._rendered([user, {"role": "assistant", "content": answer}], prompt=False)
        whole = self._ids(text[: text.rfind(answer) + len(answer)]) if answer in text else []
        reply = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
        return prompt, [*(reply or self._ids(f" {answer}")), self._tokenizer.eos_token_id]

    def pixels(self, images: Sequence[Path]) -> "NDArray[np.float32]":
        """The images as the model's input, (image, channel, row, column)."""
        pictures = [Image.fromarray(read_image(path)) for path in images]
        with quiet("transformers"):
            pixels = self._processor(images=pictures, return_tensors="np")["pixel_values"]
        return np.asarray(pixels, dtype=np.float32)

    def _with_image(self, question: str) -> str:
        return f"{self._tokenizer.convert_ids_to_tokens(self.image_token)}\n{question}"

    def _rendered(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def spliced(ids: Sequence[int], image_token: int, count: int) -> list[int]:
    """The ids with the image token repeated ``count`` times: places for the image's embeddings."""
    place = list(ids).index(image_token)
    return [*ids[:place], *[image_token] * count, *ids[place + 1 :]]


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
