"""How one answer is scored against its references, and the baseline that never looks at an image."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from spaces.sample import Sample

Metric: TypeAlias = Callable[[str, Sample], float]

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


def exact(answer: str, sample: Sample) -> float:
    """1.0 where the answer equals one of the references after :func:`normalise`, else 0.0."""
    given = normalise(answer)
    return float(any(given == normalise(reference) for reference in sample.answers))


METRICS: Mapping[str, Metric] = {"exact": exact}


def commonest_answers(seen: Sequence[Sample], asked: Sequence[Sample], field: str = "") -> tuple[str, ...]:
    """What "always the commonest answer" says to each of ``asked``: the best blind guess that ``seen`` allows.

    Samples are grouped by ``field`` (a task's hint field, such as the kind of question); without one, by the text of
    the question. Each group's answer is its commonest canonical answer in ``seen``; a group with fewer than two samples
    there gets the commonest answer overall. Ties go to the answer that comes first in alphabetical order. With
    ``seen`` the same as ``asked`` no constant answer per group can do better on exact match.

    Raises:
        ValueError: when ``seen`` is empty.
    """
    if not seen:
        raise ValueError("the commonest answer needs at least one sample")
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for sample in seen:
        answer = normalise(sample.answers[0])
        groups[_group(sample, field)][answer] += 1
        overall[answer] += 1
    fallback = _commonest(overall)
    best = {name: _commonest(counts) for name, counts in groups.items() if counts.total() > 1}
    return tuple(best.get(_group(sample, field), fallback) for sample in asked)


def _keep_in_numbers(match: re.Match[str]) -> str:
    kept = unicodedata.category(match.group())[0] in "SM" or _in_number(match)
    return match.group() if kept else " "


def _in_number(match: re.Match[str]) -> bool:
    after = match.string[match.end() : match.end() + 2]
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    if match.group() == ".":
        return before.isdigit() and after[:1].isdigit()
    return match.group() == "-" and not before.isalnum() and after.lstrip(".")[:1].isdigit()


def _group(sample: Sample, field: str) -> str:
    return sample.fields.get(field, "") if field else sample.question


def _commonest(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
