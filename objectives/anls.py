"""Average normalised Levenshtein similarity: the metric of questions about text in images."""

from spaces.sample import Sample

THRESHOLD = 0.5


def anls(answer: str, sample: Sample) -> float:
    """The greatest similarity to a reference (Biten et al., ICCV 2019, arXiv 1905.13648, equation 1).

    The similarity is 1 - NL where NL < 0.5, else 0; NL is the Levenshtein distance over the length of the longer text.
    Case and runs of white space do not count. The mean of these scores over a split is its ANLS.
    """
    given = _plain(answer)
    return max(_similarity(given, _plain(reference)) for reference in sample.answers)


def levenshtein(first: str, second: str) -> int:
    """The least number of characters to insert, delete or replace that turns one text into the other.

    Time grows with the product of the lengths (Wagner and Fischer 1974, JACM 21:168).
    """
    row = list(range(len(second) + 1))
    for line, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], line
        for place, right in enumerate(second, start=1):
            changed = diagonal + (left != right)
            diagonal = row[place]
            row[place] = min(changed, diagonal + 1, row[place - 1] + 1)
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(given: str, reference: str) -> float:
    longest = max(len(given), len(reference))
    if abs(len(given) - len(reference)) >= THRESHOLD * longest:  # the distance is at least this
        return float(given == reference)
    distance = levenshtein(given, reference) / longest
    return 1 - distance if distance < THRESHOLD else 0.0
