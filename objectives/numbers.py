"""Numbers in answers, and the metric that compares them."""

import re
import unicodedata
from decimal import Decimal

from spaces.sample import Sample

_SIGNS = str.maketrans({"−": "-", "﹣": "-", "－": "-", "＋": "+"})
_SPACED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))")
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w.,])[+-])?
    (?P<digits> (?!0)\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?   # 1,000.5
      | (?!0)\d{1,3}(?:\.\d{3})+,\d+(?![\d,])           # 1.000,5
      | \d+(?:\.\d+ | ,\d+(?![\d,]))?                   # 3.5; 3,5 is the same, as much of the world writes it
      | (?<!\d)\.\d+ )                                  # .5
    (?P<power>[eE][+-]?\d{1,3}(?!\w))?
    """,
    re.VERBOSE,
)
_GROUPED = re.compile(r"(?!0)\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def first_number(text: str) -> Decimal | None:
    """The first number in a text, null without one.

    A sign counts where it does not follow a letter or digit (``A-5`` holds 5). Thousands may be set apart by commas,
    apostrophes, no-break or thin spaces, or by points before a decimal comma; a single comma before other than three
    digits is a decimal comma, and other commas end the number. What comes after it (units, per cent) does not matter.
    """
    text = unicodedata.normalize("NFKC", _SPACED.sub("", text)).translate(_SIGNS)
    match = _NUMBER.search(text)
    if match is None:
        return None
    digits = match["digits"]
    if digits.find(".") < digits.find(","):
        digits = digits.replace(".", "")
    digits = digits.replace(",", "" if _GROUPED.fullmatch(digits) else ".")
    return Decimal((match["sign"] or "").strip() + digits + (match["power"] or ""))


def numeric(answer: str, sample: Sample, tolerance: float = 0.0, relative: float = 0.0) -> float:
    """1.0 where the answer's first number is near that of a reference, else 0.0; an answer without a number scores 0.

    Near: apart by at most ``tolerance``, or by at most ``relative`` times the reference's absolute value. Decimal
    arithmetic, so 0.35 is within 0.05 of 0.3.
    """
    given = first_number(answer)
    if given is None:
        return 0.0
    return float(any(_near(given, first_number(text), tolerance, relative) for text in sample.answers))


def _near(given: Decimal, wanted: Decimal | None, tolerance: float, relative: float) -> bool:
    if wanted is None:
        return False
    return abs(given - wanted) <= max(Decimal(repr(tolerance)), Decimal(repr(relative)) * abs(wanted))
