"""Chat templates that every runtime renders alike: plain text around ``<image>``, a line break and the question.

openvino_genai hands a template one string for each turn and adds no special tokens afterwards. Checkpoints come with
templates for lists of parts, or with none, and leave the first token to the tokenizer. Here they get one form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaces.axes.files import read_json
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed

IMAGE = "<image>"
_GENAI_BREAK = f"{IMAGE}\n"
_ASKED, _ANSWERED, _AGAIN = "firstquestion", "givenanswer", "secondquestion"
_QUOTED = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"})


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The fixed texts around the turns of a chat; ``head`` stands once before all, ``cue`` asks for an answer."""

    head: str
    before_user: str
    after_user: str
    before_assistant: str
    after_assistant: str
    cue: str
    image_break: str = "\n"

    def template(self) -> str:
        """A Jinja template of output, loop and condition alone, which every engine renders alike."""
        content = "message['content']"
        if self.image_break != "\n":
            content += f".replace({_literal(_GENAI_BREAK)}, {_literal(IMAGE + self.image_break)})"
        user = f"{_output(self.before_user)}{{{{ {content} }}}}{_output(self.after_user)}"
        answer = f"{_output(self.before_assistant)}{{{{ message['content'] }}}}{_output(self.after_assistant)}"
        return (
            f"{_output(self.head)}{{% for message in messages %}}{{% if message['role'] == 'user' %}}{user}"
            f"{{% elif message['role'] == 'assistant' %}}{answer}{{% endif %}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{_output(self.cue)}{{% endif %}}"
        )


@dataclass(frozen=True, kw_only=True)
class TextForm:
    """What the deployed path needs of a tokenizer.

    Attributes:
        template: a chat template that takes plain text and puts every special token itself.
        end_id: the token that ends an answer.
        pad, pad_id: the token that fills a batch; ``padded`` tells whether the tokenizer names it itself.
    """

    template: str
    end_id: int
    pad: str
    pad_id: int
    padded: bool


def template_of(folder: Path) -> str:
    """The chat template that a checkpoint comes with, the processor's before the tokenizer's; empty for none."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = read_json(folder / name).get("chat_template")
        if isinstance(found, list):
            found = next((one["template"] for one in found if one.get("name") == "default"), None)
        if found:
            return str(found)
    return ""


def text_form(folder: Path, image_token: int) -> TextForm:
    """The checkpoint's tokenizer and chat template as the deployed path needs them.

    Raises:
        StageFailed: the template cannot be brought into the form, the tokenizer has no end token, or ``<image>`` is
            not its token of the id ``image_token``.
    """
    words = _tokenizer(folder)
    if words.eos_token is None:
        raise StageFailed("the tokenizer has no eos_token, so answers have no end: name one in tokenizer_config.json.")
    if list(words(IMAGE, add_special_tokens=False)["input_ids"]) != [image_token]:
        raise StageFailed(f"{IMAGE} is not the tokenizer's token {image_token}, as config.json says: mend one of them.")
    pad = str(words.pad_token or words.unk_token or words.eos_token)
    return TextForm(
        template=_text_template(words, template_of(folder)),
        end_id=int(words.eos_token_id),
        pad=pad,
        pad_id=int(words.convert_tokens_to_ids(pad)),
        padded=words.pad_token is not None,
    )


def _text_template(words: Any, given: str) -> str:
    """The template ``given`` in a form that takes plain text and begins with the tokenizer's first token.

    One that does is given as it is. One for lists of parts is read off its renderings of chats of one and three turns.
    Where there is none, LLaVA-1.5's is taken: ``USER: <image>``, a line break, the question, `` ASSISTANT:``.
    """
    if not given:
        eos = str(words.eos_token)
        turns = Turns(
            head="",
            before_user="USER: ",
            after_user=" ",
            before_assistant="ASSISTANT: ",
            after_assistant=eos,
            cue="ASSISTANT:",
        )
        return _with_first_tokens(words, turns.template())
    if _takes_text(words, given):
        return _with_first_tokens(words, given)
    turns = _read_off(words, given)
    derived = turns.template()
    for chat, cue in _chats():
        if _render(words, derived, [_as_text(turn) for turn in chat], cue) != _render(words, given, chat, cue):
            raise StageFailed("the chat template treats turns unlike one another: give one that takes plain text.")
    return _with_first_tokens(words, derived)


def _tokenizer(folder: Path) -> Any:
    with quiet("transformers"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _takes_text(words: Any, template: str) -> bool:
    question = f"{_GENAI_BREAK}{_ASKED}"
    try:
        return question in _render(words, template, [{"role": "user", "content": question}], True)
    except StageFailed:
        return False


def _read_off(words: Any, template: str) -> Turns:
    """The texts around the turns, from where the sentinels stand in the renderings of four chats."""
    asked, prompted, answered, again = (_render(words, template, chat, cue) for chat, cue in _chats())
    try:
        first, after_asked = asked.split(_ASKED)
        _, after_prompted = prompted.split(_ASKED)
        _, ending = answered.split(_ANSWERED)
        _, rest = again.split(_ASKED)
        between, rest = rest.split(_ANSWERED)
        following, _ = rest.split(_AGAIN)
        opening, image_break = first.split(IMAGE)
        before_user, second_break = following.removeprefix(ending).split(IMAGE)
    except ValueError:
        raise StageFailed(
            "the chat template does not put one image before each question: give one that takes plain text."
        ) from None
    fits = (
        after_prompted.startswith(after_asked)
        and between.startswith(after_asked)
        and following.startswith(ending)
        and opening.endswith(before_user)
        and second_break == image_break
    )
    if not fits:
        raise StageFailed("the chat template treats turns unlike one another: give one that takes plain text.")
    return Turns(
        head=opening.removesuffix(before_user),
        before_user=before_user,
        after_user=after_asked,
        before_assistant=between.removeprefix(after_asked),
        after_assistant=ending,
        cue=after_prompted.removeprefix(after_asked),
        image_break=image_break,
    )


def _with_first_tokens(words: Any, template: str) -> str:
    """The template with the special tokens before it that the tokenizer puts before a text; those behind are left out.

    A text that begins with the tokenizer's first token gets no second one, as in transformers' processors.
    """
    text = _render(words, template, [{"role": "user", "content": f"{_GENAI_BREAK}{_ASKED}"}], True)
    if words.bos_token and text.startswith(words.bos_token):
        return template
    plain = list(words(text, add_special_tokens=False)["input_ids"])
    whole = list(words(text)["input_ids"])
    count = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), None)
    if count is None:
        raise StageFailed("the tokenizer changes a text when it adds special tokens: give a template with bos_token.")
    if count == 0:
        return template
    first = "".join(words.convert_ids_to_tokens(whole[:count]))
    for joint in ("", " "):
        ids = list(words(f"{first}{joint}{text}", add_special_tokens=False)["input_ids"])
        if ids == [*whole[:count], *plain]:
            return f"{_output(first + joint)}{template}"
    raise StageFailed(f"the tokenizer does not read {first} as the tokens that it adds: put them into the template.")


def _chats() -> Sequence[tuple[list[dict[str, Any]], bool]]:
    """Chats to probe a template with, and whether an answer is asked for."""
    asked, answered, again = _user(_ASKED), _part("assistant", _ANSWERED), _user(_AGAIN)
    return (
        ([asked], False),
        ([asked], True),
        ([asked, answered], False),
        ([asked, answered, again], True),
    )


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}


def _part(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _as_text(turn: Mapping[str, Any]) -> dict[str, Any]:
    texts = [_GENAI_BREAK if part["type"] == "image" else part["text"] for part in turn["content"]]
    return {"role": turn["role"], "content": "".join(texts)}


def _render(words: Any, template: str, chat: list[dict[str, Any]], cue: bool) -> str:
    try:
        text = words.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=cue)
    except Exception as error:
        raise StageFailed(f"the chat template cannot be rendered ({error}): give one that takes plain text.") from None
    return str(text)


def _output(text: str) -> str:
    return f"{{{{ {_literal(text)} }}}}" if text else ""


def _literal(text: str) -> str:
    return f"'{text.translate(_QUOTED)}'"
