from pathlib import Path

import pytest

from spaces.axes import model
from spaces.axes.layout import Layout, spliced
from tests.foreign import LIST_TEMPLATE, build_foreign


@pytest.mark.parametrize("template", [LIST_TEMPLATE, None])
def test_an_answer_is_laid_out_as_the_model_would_give_it(template: str | None, tmp_path: Path) -> None:
    """Whatever the template puts behind an answer (a space, an end token), the model is to say answer and end."""
    source, target = tmp_path / "source", tmp_path / "target"
    build_foreign(source, template=template, vision_fields={"image_size": 28})
    target.mkdir()
    model.AXIS.apply({"path": "source", "image_size": 0}, tmp_path, target, {}, 0)
    layout = Layout(target)
    words = layout._tokenizer
    prompt, answer = layout.prompt_and_answer_ids("what colour is this ?", "red ball")
    assert words.decode(prompt) == "<s>USER: <image>\nwhat colour is this ? ASSISTANT:"
    assert words.decode(answer) == " red ball</s>"
    whole = words("<s>USER: <image>\nwhat colour is this ? ASSISTANT: red ball</s>", add_special_tokens=False)
    assert [*prompt, *answer] == whole["input_ids"]
    assert spliced(prompt, layout.image_token, 3).count(layout.image_token) == 3
