"""The accuracy of the VQA challenges, with its processing of answers, after visualqa.org/evaluation."""

import re

from spaces.sample import Sample

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PUNCTUATION = re.compile(r"[^\w\s':.]|_")

_NOT = (
    "ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is",
    "might", "must", "need", "ought", "sha", "should", "was", "were", "wo", "would",
)  # fmt: skip
_WITH = {
    "d": ["he", "how", "it", "somebody", "someone", "something", "there", "they", "who", "you", "where"],
    "ll": ["how", "it", "somebody", "someone", "something", "they", "what", "who", "why", "you"],
    "s": ["he", "how", "she", "somebody", "someone", "that", "there", "what", "when", "where", "who", "why"],
    "ve": ["could", "i", "might", "must", "should", "they", "we", "what", "where", "who", "would", "you", "not"],
    "re": ["there", "they", "what", "why", "you"],
    "m": ["i"],
    "d've": ["he", "i", "it", "she", "somebody", "someone", "something", "there", "they", "we", "who", "you"],
    "n't've": ["could", "had", "might", "should", "would"],
}
_CONTRACTIONS = (
    {f"{word}nt": f"{word}n't" for word in _NOT}
    | {
        word + ending.replace("'", ""): f"{word}{ending if ending.startswith('n') else chr(39) + ending}"
        for ending, words in _WITH.items()
        for word in words
    }
    | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all"}
)


def process(text: str) -> str:
    """An answer as the evaluation compares it.

    In order, as the page lists it: lower case; commas between digits go; periods go unless a digit follows; all other
    punctuation but the apostrophe and the colon becomes a space; number words to ten, and "none", become digits; the
    words a, an and the go; a contraction without its apostrophe gets it.
    """
    text = _COMMA.sub("", text.lower().replace("’", "'"))
    text = _PUNCTUATION.sub(" ", _PERIOD.sub("", text))
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(_CONTRACTIONS.get(_bare(word), word) for word in words if word not in _ARTICLES)


def vqa_soft(answer: str, sample: Sample) -> float:
    """The share of credit that people's answers give: a third for each who gave this answer, at most all of it.

    The mean over every reference left out once of min(matches among the others / 3, 1), as the VQA challenges average
    over the ten choices of nine people (Antol et al., ICCV 2015). With fewer than ten references it is the same; three
    that agree give 2/3. A single reference is compared for equality.
    """
    given = process(answer)
    matches = [process(reference) == given for reference in sample.answers]
    if len(matches) == 1:
        return float(matches[0])
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def _bare(word: str) -> str:
    return word.replace("'", "")
