"""Knobs: the typed dimensions of a space, with the conditions under which each one counts. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from spaces.axes import Value

Condition: TypeAlias = Mapping[str, tuple[Value, ...]]
MOST_VALUES = 1_000_000
"""Of a range with a step, or of whole numbers."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a condition asks of one other knob, by full name.

    Attributes:
        values: what the knob's value is looked for in.
        among: whether it must be there, or must not be.
        absent: the outcome where the knob does not count itself: that of its default.
    """

    name: str
    values: tuple[Value, ...]
    among: bool = True
    absent: bool = False

    def holds(self, assignment: Mapping[str, Value]) -> bool:
        if self.name not in assignment:
            return self.absent
        return one_of(assignment[self.name], self.values) is self.among


Clause: TypeAlias = tuple[Term, ...]
"""Met when at least one of its terms holds."""


@dataclass(frozen=True, kw_only=True)
class _Conditional:
    """What every knob has.

    Attributes:
        name: in full, ``axis.knob``.
        when: the space file's condition: each of these knobs, by full name, counts and has one of the listed values.
        clauses: the axis's conditions; all of them must be met.
    """

    name: str
    when: Condition = field(default_factory=dict)
    clauses: tuple[Clause, ...] = ()

    @cached_property
    def conditions(self) -> tuple[Clause, ...]:
        """Both kinds as clauses: the knob counts while all of them are met."""
        return (*((Term(name=name, values=values),) for name, values in self.when.items()), *self.clauses)

    def counts(self, assignment: Mapping[str, Value]) -> bool:
        """Whether the knob counts beside these values of the other knobs that count; one that does not has none."""
        return all(any(term.holds(assignment) for term in clause) for clause in self.conditions)

    @property
    def others(self) -> tuple[str, ...]:
        """The knobs that its conditions name."""
        return tuple(dict.fromkeys(term.name for clause in self.conditions for term in clause))


@dataclass(frozen=True, kw_only=True)
class Choices(_Conditional):
    """A knob with listed values."""

    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Range(_Conditional):
    """A numeric knob from ``low`` to ``high``, both included; on a grid of ``step`` where one is given."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = False

    @property
    def count(self) -> int | None:
        """How many values the range holds; null for a continuous one."""
        if self.step is None:
            return int(self.high - self.low) + 1 if self.integer else None
        return int((self.high - self.low) / self.step + 1e-9) + 1


Knob: TypeAlias = Choices | Range


def same(left: Value, right: Value) -> bool:
    """Whether two values are one in canonical JSON: ``1`` is ``1.0`` but not ``true``."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def one_of(value: Value, values: tuple[Value, ...]) -> bool:
    """Whether ``value`` is among ``values`` in the sense of `same`."""
    return any(same(value, other) for other in values)


def describe(knob: Knob) -> str:
    """When the knob counts, in words."""
    parts = [
        " or ".join(_either(term.name, term.values, among=term.among) for term in clause) for clause in knob.conditions
    ]
    return " and ".join(dict.fromkeys(parts))


def _either(name: str, values: tuple[Value, ...], *, among: bool) -> str:
    listed = (" or " if among else " nor ").join(str(value) for value in values)
    return f"{name} is {listed}" if among else f"{name} is {'neither ' if len(values) > 1 else 'not '}{listed}"


def contains(knob: Knob, value: Value) -> bool:
    """Whether the knob can take the value."""
    if isinstance(knob, Choices):
        return one_of(value, knob.values)
    if isinstance(value, bool | str) or not knob.low <= value <= knob.high:
        return False
    if knob.integer and value != int(value):
        return False
    if knob.step is None:
        return True
    steps = (value - knob.low) / knob.step
    return abs(steps - round(steps)) < 1e-6
