"""The joint space: axes, knobs in an order that conditions can be read in, and the rules a candidate must meet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from spaces.axes import Axis, Value
from spaces.candidate import Candidate
from spaces.canonical import canonical_json, digest
from spaces.errors import BadInput
from spaces.knobs import Choices, Knob, contains, holds, one_of

COUNTED = 100_000
"""Spaces with more candidates than this are not counted."""


@dataclass(frozen=True)
class Space:
    """A joint space.

    Attributes:
        axes: in stage order.
        knobs: every knob of the space file, each after those that its condition names.
        folder: what relative paths in the space are relative to.
        source: the file it was read from, for error messages.
        plugins: references (``module:attr``) of the axes that the file brings along.
    """

    axes: tuple[Axis, ...]
    knobs: tuple[Knob, ...]
    folder: Path
    source: str
    plugins: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A digest of axes and knobs: two files that spell the same space have one id."""
        return digest([[axis.name, axis.version] for axis in self.axes] + [_knob_as_json(knob) for knob in self.knobs])

    @cached_property
    def size(self) -> int | None:
        """How many candidates there are; null where a knob is continuous or there are more than ``COUNTED``."""
        if any(not isinstance(knob, Choices) and knob.count is None for knob in self.knobs):
            return None
        count = sum(1 for _ in islice(self.candidates(), COUNTED + 1))
        return count if count <= COUNTED else None

    def knob(self, name: str) -> Knob | None:
        """The knob of that full name."""
        return next((knob for knob in self.knobs if knob.name == name), None)

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate of a space without continuous knobs, in listing order."""

        def extend(assignment: dict[str, Value], rest: tuple[Knob, ...]) -> Iterator[Candidate]:
            if not rest:
                yield Candidate(assignment)
                return
            knob = rest[0]
            if not holds(knob.when, assignment):
                yield from extend(assignment, rest[1:])
                return
            for value in grid(knob):
                yield from extend({**assignment, knob.name: value}, rest[1:])

        return extend({}, self.knobs)

    def candidate(self, assignment: Mapping[str, Value]) -> Candidate:
        """The candidate for an assignment.

        Raises:
            BadInput: a knob is unknown, missing, or has a value outside of the space, or counts although its condition
                is not met.
        """
        for knob in self.knobs:
            active = holds(knob.when, assignment)
            if active and knob.name not in assignment:
                raise BadInput(f"a candidate of {self.source} needs a value for {knob.name}.")
            if not active and knob.name in assignment:
                raise BadInput(f"{knob.name} counts only when {describe(knob.when)}: leave it out here.")
            if active and not contains(knob, assignment[knob.name]):
                raise BadInput(f"{knob.name} = {assignment[knob.name]!r} is not in the space {self.source}.")
        for name in assignment:
            if self.knob(name) is None:
                raise BadInput(f"{name} is no knob of the space {self.source}.")
        return Candidate({knob.name: assignment[knob.name] for knob in self.knobs if knob.name in assignment})

    def as_it_comes(self, model: Value) -> Candidate:
        """The candidate nearest to the model unchanged: each active knob at its default, or at its first value."""
        assignment: dict[str, Value] = {}
        for knob in self.knobs:
            if not holds(knob.when, assignment):
                continue
            default = model if knob.name == "model.path" else self._default(knob.name)
            assignment[knob.name] = default if contains(knob, default) else grid(knob)[0]
        return self.candidate(assignment)

    def choice(self, candidate: Candidate, axis: Axis) -> dict[str, Value]:
        """The candidate's values for every knob of one axis, those it does not have at their defaults."""
        return {
            name: candidate.values.get(f"{axis.name}.{name}", domain.default) for name, domain in axis.domains.items()
        }

    def check(self, capabilities: Mapping[str, Mapping[str, tuple[Value, ...]]]) -> None:
        """Refuse a space whose candidates a runtime cannot run.

        Args:
            capabilities: runtime name -> full knob name -> the values it can run; knobs not named are free.

        Raises:
            BadInput: naming the knob, the value, the runtime and the nearest value that it has.
        """
        runtime_axis = next(axis for axis in self.axes if axis.name == "runtime")
        runtimes = self.knob("runtime.name")
        names = grid(runtimes) if runtimes else (runtime_axis.domains["name"].default,)
        for runtime in names:
            if str(runtime) not in capabilities:
                raise BadInput(
                    f"{self.source}: runtime.name: there is no runtime {runtime!r}; "
                    f"there are {', '.join(sorted(capabilities))}."
                )
            for name, allowed in capabilities[str(runtime)].items():
                knob = self.knob(name)
                if knob is None or not _can_hold(knob, "runtime.name", runtime):
                    continue
                for value in grid(knob):
                    if not one_of(value, allowed):
                        raise BadInput(
                            f"{self.source}: {name}: the runtime {runtime} has no {value!r}; it has "
                            f"{', '.join(repr(item) for item in allowed)} "
                            f"(or let {name} count only 'when: {{runtime.name: [...]}}')."
                        )

    def _default(self, name: str) -> Value:
        axis_name, knob_name = name.split(".", 1)
        return next(axis for axis in self.axes if axis.name == axis_name).domains[knob_name].default


def grid(knob: Knob) -> tuple[Value, ...]:
    """The knob's values; for a continuous range its two ends."""
    if isinstance(knob, Choices):
        return knob.values
    if knob.count is None:
        return (knob.low, knob.high)
    step = knob.step or 1
    values = [knob.low + index * step for index in range(knob.count)]
    return tuple(int(value) for value in values) if knob.integer else tuple(values)


def describe(when: Mapping[str, tuple[Value, ...]]) -> str:
    """A condition in words."""
    return " and ".join(f"{name} is {' or '.join(str(value) for value in values)}" for name, values in when.items())


def _can_hold(knob: Knob, name: str, value: Value) -> bool:
    return name not in knob.when or one_of(value, knob.when[name])


def _knob_as_json(knob: Knob) -> list[object]:
    when = {name: list(values) for name, values in knob.when.items()}
    if isinstance(knob, Choices):
        return [knob.name, sorted(canonical_json(value) for value in knob.values), when]
    return [knob.name, [knob.low, knob.high, knob.step, knob.log, knob.integer], when]
