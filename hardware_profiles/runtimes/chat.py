"""How a question and the examples before it are laid out as a chat, for every runtime alike."""

import json
from collections.abc import Sequence
from pathlib import Path

from hardware_profiles.runtimes import Example, Question
from spaces.errors import BadInput

Turn = dict[str, str]


def chat(question: Question, examples: Sequence[Example]) -> list[Turn]:
    """The turns of a question: each example's, then its own, every image's place at the start of its turn."""
    return [*turns(examples), _user(question.prompt)]


def turns(examples: Sequence[Example]) -> list[Turn]:
    """Two turns for each example: the user's with image and prompt, the assistant's with the answer."""
    made: list[Turn] = []
    for example in examples:
        made += [_user(example.prompt), {"role": "assistant", "content": example.answer}]
    return made


def _user(prompt: str) -> Turn:
    return {"role": "user", "content": f"<image>\n{prompt}"}


def positions(folder: Path) -> int | None:
    """How many tokens the model in ``folder`` has positions for; null where its config.json does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = config.get("text_config", {}).get("max_position_embeddings")
    return int(limit) if limit else None


def check_length(length: int, limit: int | None) -> None:
    """Refuse a chat that the model has no positions for: it would be answered, but wrongly.

    Raises:
        BadInput: with both numbers.
    """
    if limit is not None and length > limit:
        raise BadInput(
            f"a prompt with its exemplars and its answer takes {length} tokens, and the model has positions for "
            f"{limit}; lower prompt.exemplars."
        )
