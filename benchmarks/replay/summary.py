"""What replays over seeds come to: costs to a level, and how ours compare with the best peer's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from replay.scoring import LEVELS, Curve, Reached

Levels = Mapping[str, "Summary"]  # level, as in "0.95"
AS_SHIPPED = "as_shipped"  # ours with its store against peers as they come
CHARGED = {"plain": ("plain", "plain"), "cached": ("cached", "cached"), AS_SHIPPED: ("cached", "plain")}  # ours, peers


@dataclass(frozen=True)
class Summary:
    """Seconds to a level over seeds; each of the three is ``at least`` where runs that never arrived decide it.

    Attributes:
        median: of the runs, those that never arrived at their cap.
        quartiles: the first and the third.
        arrived: how many runs arrived.
        seeds: how many there were.
    """

    median: Reached
    quartiles: tuple[Reached, Reached]
    arrived: int
    seeds: int

    def as_json(self) -> dict[str, object]:
        return {
            "median": round(self.median.cost, 1),
            "quartiles": [round(quartile.cost, 1) for quartile in self.quartiles],
            "at_least": self.median.at_least,
            "arrived": self.arrived,
            "seeds": self.seeds,
        }


def summaries(curves: Sequence[Curve]) -> dict[str, Summary]:
    """For each level, the costs at which these runs reached it."""
    return {f"{level:.2f}": _summary([curve.cost_to(level) for curve in curves]) for level in LEVELS}


def ratios(
    ours: Mapping[str, Levels], peers: Mapping[str, Mapping[str, Levels]]
) -> dict[str, dict[str, dict[str, object]]]:
    """Our median over the best peer's: charging -> level -> ratio, the peer, and which way a cap bounds the ratio.

    ``ours`` is charging -> level -> summary, ``peers`` the same by engine. The best peer is that of the least median.
    """
    found: dict[str, dict[str, dict[str, object]]] = {}
    for charging, (mine, theirs) in CHARGED.items():
        rivals = {name: rules[theirs] for name, rules in peers.items() if theirs in rules}
        if mine not in ours or not rivals:
            continue
        found[charging] = {}
        for level, summary in ours[mine].items():
            best = min(rivals, key=lambda name: (rivals[name][level].median.cost, rivals[name][level].median.at_least))
            rival = rivals[best][level].median
            found[charging][level] = {
                "ratio": round(summary.median.cost / max(rival.cost, 1e-9), 3),
                "peer": best,
                "bound": _bound(summary.median.at_least, rival.at_least),
            }
    return found


def _bound(ours: bool, rival: bool) -> str | None:
    if ours and rival:
        return "none arrived"
    if ours:
        return "at least"
    return "at most" if rival else None


def _summary(reached: Sequence[Reached]) -> Summary:
    runs = sorted(reached, key=lambda one: (one.cost, one.at_least))
    return Summary(
        median=_quantile(runs, 0.5),
        quartiles=(_quantile(runs, 0.25), _quantile(runs, 0.75)),
        arrived=sum(not run.at_least for run in runs),
        seeds=len(runs),
    )


def _quantile(runs: Sequence[Reached], share: float) -> Reached:
    position = share * (len(runs) - 1)
    above = runs[int(np.ceil(position))]
    return Reached(float(np.quantile([run.cost for run in runs], share)), above.at_least)
