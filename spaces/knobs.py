"""Knobs: the typed dimensions of a space, with the conditions under which each one counts. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from spaces.axes import Value

Condition: TypeAlias = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A knob with listed values. ``name`` is full, ``axis.knob``; ``when`` maps full names of other knobs to values."""

    name: str
    values: tuple[Value, ...]
    when: Condition = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Range:
    """A numeric knob from ``low`` to ``high``, both included; on a grid of ``step`` where one is given."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = False
    when: Condition = field(default_factory=dict)

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


def holds(when: Condition, assignment: Mapping[str, Value]) -> bool:
    """Whether a condition is met. A knob that is not active in the assignment meets no condition."""
    return all(name in assignment and one_of(assignment[name], values) for name, values in when.items())


def contains(knob: Knob, value: Value) -> bool:
    """Whether the knob can take the value."""
    if isinstance(knob, Choices):
        return one_of(value, knob.values)
    if isinstance(value, bool | str) or (knob.integer and value != int(value)):
        return False
    if not knob.low <= value <= knob.high:
        return False
    if knob.step is None:
        return True
    steps = (value - knob.low) / knob.step
    return abs(steps - round(steps)) < 1e-6
