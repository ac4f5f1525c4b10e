"""What a replay was worth: the hypervolume of what the engine would return, over what it had paid by then."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from objectives.pareto import hypervolume, nondominated
from replay.charging import Ledger, Rule
from replay.table import Table
from spaces.errors import BadInput

Array = npt.NDArray[np.float64]

LEVELS = (0.90, 0.95, 0.99)
_MOST_OBJECTIVES = 3  # of an exact hypervolume


@dataclass(frozen=True)
class Reached:
    """The cost at which a level was reached; where it never was, the cap, and ``at_least``."""

    cost: float
    at_least: bool


@dataclass(frozen=True)
class Curve:
    """How good the returned set was over the cost axis.

    Attributes:
        costs: (changes,) seconds, rising: when the returned set changed.
        relative: (changes,) its hypervolume from then on, relative to the true front's.
        cap: seconds; nothing that was paid for beyond it counts.
    """

    costs: Array
    relative: Array
    cap: float

    def cost_to(self, level: float) -> Reached:
        """The first cost at which the returned set had this share of the true hypervolume."""
        there = np.flatnonzero((self.relative >= level) & (self.costs <= self.cap))
        return Reached(float(self.costs[there[0]]), False) if len(there) else Reached(self.cap, True)


class Score:
    """Values returned sets of one table by its full-fidelity objectives.

    Objectives are minimised and scaled: 0 is the best value of all candidates that are better than the reference in
    every objective, 1 the reference; those compared by ratio as logarithms. The true front holds, of those candidates,
    the ones that epsilon-dominance at the floor keeps: what is left out is matched by a kept one to within the floor.

    Attributes:
        scaled: (rows, objectives); not-a-number where a candidate is not ok.
        front: (members,) the rows of the true front.

    Raises:
        BadInput: where no candidate is better than the reference, or there are more than three objectives.
    """

    def __init__(self, table: Table) -> None:
        if len(table.objectives) > _MOST_OBJECTIVES:
            raise BadInput(f"a table of {len(table.objectives)} objectives cannot be scored; record at most three")
        values, reference, floor = _minimised(table)
        inside = table.ok & np.all(values < reference, axis=1)
        if not inside.any():
            raise BadInput("no candidate is better than the table's reference in every objective; mend the reference")
        best = values[inside].min(axis=0)
        self.scaled: Array = (values - best) / (reference - best)
        candidates = np.flatnonzero(inside)
        kept = nondominated(self.scaled[candidates], epsilon=floor / (reference - best))
        self.front: npt.NDArray[np.intp] = candidates[kept]
        self._reference = np.ones(len(table.objectives))
        self._full = hypervolume(self.scaled[self.front], self._reference)

    def relative(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> float:
        """The hypervolume of these rows relative to the true front's.

        At most 1: candidates that differ from the front's by less than the floor could make up a little more.
        """
        return min(1.0, self._share(rows))

    def curve(self, changes: Sequence[tuple[float, Sequence[int]]], cap: float) -> Curve:
        """How good the returned rows were, given from which cost on they were returned."""
        costs = [cost for cost, _ in changes]
        return Curve(np.array(costs), np.array([self.relative(rows) for _, rows in changes]), cap)

    def oracle(self, table: Table, rule: Rule, level: float) -> float:
        """Seconds that one who knows the true front would pay to reach a level with trials in full of its members.

        Members are taken for the most gain per new cost, of what is still missing; those that the others then make
        superfluous are left out. That is near the cheapest set of members, not always the cheapest.
        """
        ledger = Ledger(table, rule)
        taken: list[int] = []
        reached = 0.0
        # What a member adds only shrinks as others join, so what it added before bounds what it adds now.
        bound = dict.fromkeys(self.front.tolist(), 1.0)
        while reached < level and bound:
            missing = level - reached
            price = {row: max(ledger.whole(row), 1e-9) for row in bound}
            best, best_rate = -1, -1.0
            for row in sorted(bound, key=lambda row: -min(bound[row], missing) / price[row]):
                if min(bound[row], missing) / price[row] <= best_rate:
                    break
                bound[row] = self._share([*taken, row]) - reached
                if min(bound[row], missing) / price[row] > best_rate:
                    best, best_rate = row, min(bound[row], missing) / price[row]
            reached += bound.pop(best)
            ledger.trial(best)
            taken.append(best)
        for row in sorted(taken, key=Ledger(table, rule).whole, reverse=True):
            others = [other for other in taken if other != row]
            if self._share(others) >= level:
                taken = others
        return sum(map(Ledger(table, rule).trial, taken))

    def _share(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> float:
        return hypervolume(self.scaled[np.asarray(rows, dtype=np.intp)], self._reference) / self._full


def _minimised(table: Table) -> tuple[Array, Array, Array]:
    """Values (rows, objectives), reference and floor (objectives,): all to be minimised, ratios as logarithms."""
    values = table.values.copy()
    reference = np.array([table.reference[name] for name in table.objectives])
    floor = np.array([table.floor[name] for name in table.objectives])
    for k, (name, direction) in enumerate(table.objectives.items()):
        if name in table.logarithmic:
            values[:, k], reference[k], floor[k] = np.log(values[:, k]), np.log(reference[k]), np.log1p(floor[k])
        if direction == "max":
            values[:, k], reference[k] = -values[:, k], -reference[k]
    return values, reference, floor
