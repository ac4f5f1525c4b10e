"""A candidate: one frozen assignment of a space's active knobs, with an id made from its canonical JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from spaces.axes import Value
from spaces.canonical import digest

_ID_DIGITS = 12


@dataclass(frozen=True)
class Candidate:
    """An assignment ``axis.knob`` -> value of the active knobs only: inactive ones never split a candidate in two."""

    values: Mapping[str, Value]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    @cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the sha256 of the assignment's canonical JSON."""
        return digest(dict(self.values))[:_ID_DIGITS]
