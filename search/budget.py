"""How long a search may go on: wall time or a number of trials."""

import math
import re
from dataclasses import dataclass

from spaces.errors import BadInput

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|trials?)")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit on wall time in seconds or on the number of told trials; exactly one of the two is set."""

    seconds: float | None = None
    trials: int | None = None

    def __str__(self) -> str:
        return f"{self.trials} trials" if self.trials is not None else f"{self.seconds:g} s"


def parse_budget(text: str) -> Budget:
    """A budget from text such as ``90s``, ``5m``, ``2h`` or ``200trials``.

    Raises:
        BadInput: the text is no budget, or the budget is zero.
    """
    match = _FORM.fullmatch(str(text).strip().lower())
    if match is None:
        raise BadInput(f"budget: {text!r} is no budget; write a time like 90s, 5m or 2h, or a count like 200trials.")
    amount, unit = float(match[1]), match[2]
    if not math.isfinite(amount):
        raise BadInput("budget: that is more than anyone has; give a smaller number.")
    if amount <= 0:
        raise BadInput(f"budget: {text!r} leaves nothing to do; give more than zero.")
    if unit in _UNITS_S:
        return Budget(seconds=amount * _UNITS_S[unit])
    if amount != int(amount):
        raise BadInput(f"budget: {text!r} is no whole number of trials.")
    return Budget(trials=int(amount))
