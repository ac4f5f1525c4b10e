"""The normal form of free-text answers: what counts as the same answer."""

import re
import unicodedata

_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_APOSTROPHES = re.compile(r"['’`]")
_PUNCTUATION = re.compile(r"[^\w\s%]|_")


def normalise(text: str) -> str:
    """The form in which answers are compared.

    In order: Unicode NFKC and case folding; apostrophes and thousands commas go (``don't`` is ``dont``, ``1,000`` is
    ``1000``); all other punctuation becomes a space, except ``%``, a decimal point between digits and a minus sign
    before a number; symbols such as ``+`` or the euro's and the marks of scripts stay; the words a, an and the go,
    unless nothing else is left (the answer "A" of a multiple choice); runs of spaces become one. An answer of
    punctuation alone stays as it is. After the answer normalisation of SQuAD's evaluate-v1.1.py (Rajpurkar et al. 2016)
    and of VQA's evaluation (Antol et al. 2015), with numbers and single letters kept.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _THOUSANDS.sub("", _APOSTROPHES.sub("", text))
    words = _PUNCTUATION.sub(_keep_in_numbers, text).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words or text.split())


def _keep_in_numbers(match: re.Match[str]) -> str:
    kept = unicodedata.category(match.group())[0] in "SM" or _in_number(match)
    return match.group() if kept else " "


def _in_number(match: re.Match[str]) -> bool:
    after = match.string[match.end() : match.end() + 2]
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    if match.group() == ".":
        return before.isdigit() and after[:1].isdigit()
    return match.group() == "-" and not before.isalnum() and after.lstrip(".")[:1].isdigit()
