"""What a trial costs that others came before: the two rules of charging."""

from typing import Literal, TypeAlias

from replay.table import Table

Rule: TypeAlias = Literal["plain", "cached"]
RULES: tuple[Rule, ...] = ("plain", "cached")


class Ledger:
    """Charges the trials of one replay.

    Rules: under ``plain`` a trial pays all its stages; under ``cached`` a stage is free whose prefix of knobs, those of
    all stages up to it, was paid for by an earlier trial. Either way a trial pays for loading, each item that it scores
    and measuring. A candidate that is not ok pays for the stages up to the one where it ended.

    Attributes:
        total: seconds charged so far.
    """

    def __init__(self, table: Table, rule: Rule) -> None:
        self.total = 0.0
        self._table = table
        self._rule = rule
        self._prefixes = [table.prefixes[:, k] for k in range(len(table.stages))]
        self._paid: set[tuple[int, int]] = set()

    def build(self, row: int) -> dict[str, float]:
        """Charges the stages; returns what each newly costs."""
        paid = self.new(row)
        if self._rule == "cached":
            self._paid |= {(k, int(prefixes[row])) for k, prefixes in enumerate(self._prefixes)}
        self.total += sum(paid.values())
        return paid

    def load(self, row: int) -> float:
        """Charges one loading of the bundle."""
        return self._charge(float(self._table.load_s[row]))

    def items(self, row: int, count: int) -> float:
        """Charges the scoring of so many items."""
        return self._charge(count * float(self._table.item_s[row]))

    def measure(self, row: int) -> float:
        """Charges one measurement on the device."""
        return self._charge(float(self._table.measure_s[row]))

    def trial(self, row: int) -> float:
        """Charges a trial in full."""
        before = self.total
        self.build(row)
        self.load(row)
        self.items(row, self._table.items)
        self.measure(row)
        return self.total - before

    def new(self, row: int) -> dict[str, float]:
        """What each stage would newly cost; charges nothing."""
        costs = self._table.costs[row]
        return {
            stage: 0.0 if (k, int(self._prefixes[k][row])) in self._paid else float(costs[k])
            for k, stage in enumerate(self._table.stages)
        }

    def whole(self, row: int) -> float:
        """What a trial in full would newly cost; charges nothing."""
        run = self._table.load_s[row] + self._table.items * self._table.item_s[row] + self._table.measure_s[row]
        return sum(self.new(row).values()) + float(run)

    def _charge(self, seconds: float) -> float:
        self.total += seconds
        return seconds
