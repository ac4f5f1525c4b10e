import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spaces.errors import BadInput
from spaces.reader import load_yaml
from spaces.strict_yaml import MOST_CHARACTERS, parse_yaml

_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 9)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)


@given(st.dictionaries(st.text(max_size=9), plain | st.lists(plain, max_size=4), max_size=5))
def test_what_is_plain_reads_as_pyyaml_reads_it(value: dict[str, object]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text)


def test_anchors_and_merges_stay_allowed() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nmetric: b\nname: c", ["line 3", "'name' stands twice"]),
        ("a: {b: 1, 'b': 2}", ["line 1", "'b' stands twice"]),
        (_LAUGHS, ["line 5", "20,000 values"]),
        ("a: &a [*a]", ["line 1", "inside of what it names"]),
        ("\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 99))]), ["line 50", "50 levels"]),
        ("[" * 5000, ["50 levels"]),
        ("x: [" + "1," * 30_000 + "]", ["20,000 values"]),
        ("#" * MOST_CHARACTERS + "#", ["1,000,000 characters"]),
        ("when: 2026-02-30", ["line 1", "'2026-02-30' is no timestamp", "quotes"]),
        ("a: !!int x", ["line 1", "'x' is no int"]),
        ("a: !!int ''", ["line 1", "'' is no int"]),
        ("a: !!bool x", ["line 1", "'x' is no bool"]),
        ("a: !!timestamp x", ["line 1", "'x' is no timestamp"]),
        ("a: 1" + ":1" * 400 + ".5", ["line 1", "is no float"]),
        ("a: 1" + "0" * 400, ["line 1", "is no int"]),
        ("a: " + "1" * 5000, ["line 1", "is no int"]),
        ('a: "\\ud800"', ["line 1", "half a character"]),
        ("a: !!python/name:os.system x", ["line 1", "constructor"]),
        ("a: \x00", ["not YAML"]),
    ],
)
def test_it_is_refused_in_one_sentence_at_once(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(BadInput) as caught:
        load_yaml(path, "vlmfront.task/1")
    assert time.process_time() - begun < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for word in [str(path), *words]:
        assert word in message


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("schema: s\n", encoding="utf-8-sig")
    assert load_yaml(path, "s") == {"schema": "s"}
    path.write_text("schema: s\n", encoding="utf-16")
    with pytest.raises(BadInput, match="cannot be read as text"):
        load_yaml(path, "s")


def test_a_message_stays_one_short_line_that_keeps_its_ends() -> None:
    message = str(BadInput(f"task.yaml, line 3: {'x' * 5000}\n\x1b[2J is wrong; mend it."))
    assert message.startswith("task.yaml, line 3: xxx")
    assert message.endswith("is wrong; mend it.")
    assert len(message) < 1000
    assert message.isprintable()
