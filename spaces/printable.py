"""Text from outside, made safe for a terminal."""

import unicodedata


def printable(text: str, most: int = 2000) -> str:
    """The text on one line without control characters, which could rewrite the screen; cut at ``most`` characters."""
    shown = "".join(" " if character.isspace() else character for character in text[:most])
    kept = "".join(character for character in shown if unicodedata.category(character)[0] != "C")
    return kept + ("…" if len(text) > most else "")
