import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spaces.axes.chat import IMAGE, Turns, template_of, text_form
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed
from tests.foreign import CHATML, LIST_TEMPLATE, bpe_tokenizer, sentence_tokenizer, word_tokenizer

TEXT_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
AWKWARD = (  # a head, quotes, backslashes, tabs, letters beyond ASCII, and a trailing end token
    "{{ 'Sys\\\\tem \"é\"\\n\\t' }}{% for m in messages %}{{ \"it's \" + m['role'] + ':' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}"
    "{{ eos_token if m['role'] == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
NUMBERED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ loop.index }}<image>{% endif %}"
    "{{ m['content'][-1]['text'] + ' ' }}{% endfor %}"
)
QUESTION, ANSWER, AGAIN = "what colour is this ?", "red ball", "is it's shape {{ a }} box ?"


def saved(folder: Path, template: str | None, tokenizer: Any = None) -> Path:
    words = tokenizer or bpe_tokenizer()
    words.chat_template = template
    words.save_pretrained(folder)
    return folder


def reference(folder: Path, template: str, turns: list[tuple[str, str]], cue: bool) -> tuple[str, list[int]]:
    """What transformers' processors make of a chat: lists of parts, and special tokens where no first token stands."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    chat = [
        {"role": role, "content": [{"type": "image"}] * (role == "user") + [{"type": "text", "text": text}]}
        for role, text in turns
    ]
    text = words.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=cue)
    return text, words(text, add_special_tokens=not text.startswith(words.bos_token))["input_ids"]


CHATS = [
    ([("user", QUESTION)], True),
    ([("user", QUESTION), ("assistant", ANSWER)], False),
    ([("user", QUESTION), ("assistant", ANSWER), ("user", AGAIN)], True),
    ([("user", QUESTION), ("assistant", ANSWER), ("user", AGAIN), ("assistant", ANSWER), ("user", QUESTION)], True),
]


@pytest.mark.parametrize(
    ("template", "tokenizer"),
    [
        (LIST_TEMPLATE, bpe_tokenizer),
        (CHATML, bpe_tokenizer),
        (AWKWARD, bpe_tokenizer),
        (LIST_TEMPLATE, partial(sentence_tokenizer, legacy=True)),
        (LIST_TEMPLATE, partial(sentence_tokenizer, legacy=False)),
        (CHATML, partial(sentence_tokenizer, legacy=False)),
        (LIST_TEMPLATE, word_tokenizer),
    ],
)
def test_a_template_for_lists_becomes_one_for_text_that_all_engines_render_alike(
    tmp_path: Path, template: str, tokenizer: Callable[[], Any]
) -> None:
    folder = saved(tmp_path, template, tokenizer())
    form = text_form(folder, 3)
    words, engine = tokenizer(), genai_tokenizer(folder)
    for turns, cue in CHATS:
        wanted, ids = reference(folder, template, turns, cue)
        plain = [{"role": role, "content": f"<image>\n{text}" if role == "user" else text} for role, text in turns]
        text = words.apply_chat_template(plain, chat_template=form.template, tokenize=False, add_generation_prompt=cue)
        assert text.removeprefix("<s>").removeprefix(" ") == wanted
        assert words(text, add_special_tokens=False)["input_ids"] == ids
        made = engine.apply_chat_template(plain, add_generation_prompt=cue, chat_template=form.template)
        assert made == text
        assert engine.encode(made, add_special_tokens=False).input_ids.data[0].tolist() == ids


def genai_tokenizer(folder: Path) -> Any:
    with quiet("transformers", "openvino_tokenizers", "openvino"):
        import openvino
        import openvino_genai
        from openvino_tokenizers import convert_tokenizer
        from transformers import AutoTokenizer

        graphs = convert_tokenizer(AutoTokenizer.from_pretrained(folder), with_detokenizer=True)
        for graph, name in zip(graphs, ("tokenizer", "detokenizer"), strict=True):
            openvino.save_model(graph, folder / f"openvino_{name}.xml")
        return openvino_genai.Tokenizer(str(folder))


def test_without_a_template_the_prompt_is_that_of_llava_1_5(tmp_path: Path) -> None:
    form = text_form(saved(tmp_path, None), 3)
    chat = [
        {"role": "user", "content": f"<image>\n{QUESTION}"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": f"<image>\n{AGAIN}"},
    ]
    text = bpe_tokenizer().apply_chat_template(
        chat, chat_template=form.template, tokenize=False, add_generation_prompt=True
    )
    assert text == f"<s>USER: <image>\n{QUESTION} ASSISTANT: {ANSWER}</s>USER: <image>\n{AGAIN} ASSISTANT:"


def test_a_template_for_text_is_kept_and_gets_the_first_token_only_where_the_tokenizer_adds_one(tmp_path: Path) -> None:
    assert text_form(saved(tmp_path / "bpe", TEXT_TEMPLATE), 3).template == "{{ '<s>' }}" + TEXT_TEMPLATE
    with_first = "{{ bos_token }}" + TEXT_TEMPLATE
    assert text_form(saved(tmp_path / "first", with_first), 3).template == with_first
    assert text_form(saved(tmp_path / "words", TEXT_TEMPLATE, word_tokenizer()), 3).template == TEXT_TEMPLATE


def test_padding_and_end_are_known_also_where_the_tokenizer_names_no_padding(tmp_path: Path) -> None:
    form = text_form(saved(tmp_path / "bpe", None), 3)
    assert (form.end_id, form.pad, form.pad_id, form.padded) == (2, "<pad>", 4, True)
    form = text_form(saved(tmp_path / "words", None, word_tokenizer()), 3)
    assert (form.end_id, form.pad, form.pad_id, form.padded) == (2, "<unk>", 0, False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", "cannot be rendered"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "one image before each question"),
        ("{% for m in messages %}<image><image>{{ m['content'][-1]['text'] }}{% endfor %}", "one image before each"),
        (
            "<image>{% for m in messages %}{{ m['content'][-1]['text'] + ' ' }}{% endfor %}",
            "one image before each question",
        ),
        (NUMBERED, "unlike one another"),
        ("{% for m in messages %}{% if %}", "cannot be rendered"),
    ],
)
def test_a_template_that_cannot_be_read_off_is_refused(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(StageFailed, match=message) as refused:
        text_form(saved(tmp_path, template), 3)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_end_or_image_token_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "words", None)
    with pytest.raises(StageFailed, match=r"token 7, as config\.json says"):
        text_form(folder, 7)
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**words, "eos_token": None}))
    with pytest.raises(StageFailed, match="no eos_token"):
        text_form(folder, 3)


def test_the_processors_template_goes_before_the_tokenizers(tmp_path: Path) -> None:
    assert template_of(tmp_path) == ""
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "words"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert template_of(tmp_path) == "words"
    (tmp_path / "processor_config.json").write_text(json.dumps({"chat_template": "processor"}))
    assert template_of(tmp_path) == "processor"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert template_of(tmp_path) == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert template_of(tmp_path) == "jinja"


def test_the_projects_own_template_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    own = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert text_form(folder, 4).template == own
    assert IMAGE not in own


def test_nothing_is_put_where_there_is_no_text() -> None:
    turns = Turns(head="", before_user="", after_user="", before_assistant="", after_assistant="", cue="")
    assert "{{ '' }}" not in turns.template()
