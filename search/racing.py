"""Racing: scoring stops once it is clear that a trial stays behind another that is no worse in everything else."""

from collections.abc import Mapping, Sequence

import numpy as np

from objectives.devices import AT
from objectives.registry import Objective
from objectives.trial import Figure, Trial

ALPHA = 0.05
"""The probability at most with which a trial is raced out that would have been as accurate as its rival, or more."""

ACCURACY = "accuracy"
_BETS = np.linspace(0.05, 0.95, 10)


class Race:
    """A trial against its rival on the same items, which come in an order that was shuffled beforehand.

    The test is by betting (Waudby-Smith and Ramdas 2024, JRSS B 86:1, section 5, on sampling without replacement).
    Against the hypothesis that the trial is at least as accurate over all ``n`` items, a gambler stakes a share of a
    capital of 1 on each next difference of scores to be below its mean under that hypothesis, given those seen: the sum
    of the rest is then at least minus that of the seen. The capital, averaged over ten constant stakes, is a
    supermartingale that is never negative, so the probability that it ever reaches 1 / alpha is at most alpha (Ville's
    inequality), however often and whenever one looks, for any scores in 0..1.
    """

    def __init__(self, rival: Mapping[str, float], n: int, alpha: float = ALPHA) -> None:
        self._rival = rival
        self._n = n
        self._alpha = alpha
        self._seen = 0
        self._ahead = 0.0
        self._capital = np.ones_like(_BETS)
        self.lost = False

    @property
    def left(self) -> int:
        """How many items are still to come."""
        return self._n - self._seen

    def see(self, item: str, score: float) -> bool:
        """Take the trial's score of one more item; whether the race is lost, by now or before."""
        difference = score - self._rival[item]
        expected = -self._ahead / self.left  # at least, for each item that is left
        if expected > 1:
            self.lost = True
        else:
            stake = _BETS / max(1.0, 1 - expected)  # so that no difference costs more than is left
            self._capital *= 1 - stake * (difference - expected)
        self._seen += 1
        self._ahead += difference
        self.lost = self.lost or bool(self._capital.mean() >= 1 / self._alpha)
        return self.lost


def rival(
    trials: Sequence[Trial],
    figures: Mapping[str, Figure],
    objectives: Sequence[Objective],
    floors: Mapping[str, float],
) -> Trial | None:
    """The most accurate complete trial that is at least as good in every objective but accuracy, beyond its noise.

    Null where there is none, where accuracy is no objective, or where ``figures`` lacks one of the others. ``floors``:
    the noise floors of the figures that have one. One that some device answers in its own way, cannot run, has still to
    measure or does not allow is no rival: it is not on that device's front in the same place.
    """
    others = [objective for objective in objectives if objective.name != ACCURACY]
    if len(others) == len(objectives) or any(_value(figures, one) is None for one in others):
        return None
    better = [
        trial
        for trial in trials
        if trial.state == "complete"
        and not any(one.violated or one.state not in ("measured", "predicted") for one in trial.devices.values())
        and not any(name.startswith(f"{ACCURACY}{AT}") for name in trial.figures)
        and trial.figures[ACCURACY].value is not None
        and all(_no_worse(trial.figures, figures, one, floors.get(one.name, 0.0)) for one in others)
    ]
    return max(better, key=lambda trial: trial.figures[ACCURACY].value or 0.0, default=None)


def _no_worse(first: Mapping[str, Figure], second: Mapping[str, Figure], objective: Objective, floor: float) -> bool:
    a, b = _value(first, objective), _value(second, objective)
    if a is None or b is None:
        return False
    good, bad = (a, b) if objective.direction == "max" else (b, a)
    return good >= bad * (1 + floor) if objective.relative else good >= bad + floor


def _value(figures: Mapping[str, Figure], objective: Objective) -> float | None:
    return figures[objective.name].value if objective.name in figures else None
