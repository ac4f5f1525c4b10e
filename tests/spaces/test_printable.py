import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from spaces.printable import printable


@given(st.text())
def test_nothing_that_moves_a_cursor_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)
    assert "\n" not in shown


def test_words_stay_and_escapes_go() -> None:
    assert printable("größer 10 €\x1b[31m\nred") == "größer 10 €[31m red"
    assert printable("x" * 30, 10) == "x" * 10 + "…"
