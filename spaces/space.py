"""The joint space: axes, knobs in an order that conditions can be read in, and the rules a candidate must meet."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spaces.axes import Axis, Value
from spaces.candidate import Candidate
from spaces.canonical import canonical_json, digest
from spaces.errors import BadInput
from spaces.knobs import Choices, Knob, Range, contains, describe, one_of, same

COUNTED = 100_000
"""Spaces with more candidates than this are not listed whole."""
POINTS = 33
"""Where combinations are walked, so many values of a range stand for all, evenly spread with both ends."""


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
        """A digest of axes and knobs: two files that spell the same space have one id.

        Axes without a knob here that change nothing do not count, so that installing a plug-in changes no space.
        """
        used = {knob.name.split(".", 1)[0] for knob in self.knobs}
        axes = [axis for axis in self.axes if axis.name in used or axis.changes(_defaults(axis))]
        return digest([[axis.name, axis.version] for axis in axes] + [_knob_as_json(knob) for knob in self.knobs])

    @cached_property
    def count(self) -> int | None:
        """How many candidates there are; null where a knob is continuous. Exact and fast for spaces of any size."""
        if any(not isinstance(knob, Choices) and knob.count is None for knob in self.knobs):
            return None
        decided = [{knob.name for knob in self.knobs[:index]} for index in range(len(self.knobs))]
        known: dict[tuple[int, tuple[bool, ...]], int] = {}

        def completions(index: int, assignment: dict[str, Value]) -> int:
            """The ways to go on from ``index``, which depend only on what is met so far of the later conditions."""
            if index == len(self.knobs):
                return 1
            met = tuple(
                any(term.name in decided[index] and term.holds(assignment) for term in clause)
                for knob in self.knobs[index:]
                for clause in knob.conditions
            )
            state = (index, met)
            if state not in known:
                knob = self.knobs[index]
                if not knob.counts(assignment):
                    known[state] = completions(index + 1, assignment)
                else:
                    # Values that no condition names have equally many completions.
                    named = [value for value in self.named(knob) if isinstance(knob, Choices) or _listed(knob, value)]
                    number = len(knob.values) if isinstance(knob, Choices) else knob.count or 0
                    ways = [completions(index + 1, {**assignment, knob.name: value}) for value in named]
                    other = next((value for value in each_value(knob) if not one_of(value, tuple(named))), None)
                    if other is not None:
                        ways.append((number - len(named)) * completions(index + 1, {**assignment, knob.name: other}))
                    known[state] = sum(ways)
            return known[state]

        return completions(0, {})

    @property
    def size(self) -> int | None:
        """`count`; null also where there are more than ``COUNTED``, which nobody should list."""
        return self.count if self.count is not None and self.count <= COUNTED else None

    def knob(self, name: str) -> Knob | None:
        """The knob of that full name."""
        return next((knob for knob in self.knobs if knob.name == name), None)

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate of a space without continuous knobs, in listing order."""
        return (Candidate(assignment) for assignment in _listing(self.knobs, each_value))

    def together(
        self, names: Iterable[str], values: Callable[[Knob], Iterable[Value]] | None = None
    ) -> Iterator[dict[str, Value]]:
        """Every combination of values in which these knobs occur together in some candidate, each once.

        Knobs that do not count, or that the space does not list, are left out of a combination. ``values`` gives what
        is listed of a knob; if not given, `walked`.
        """
        wanted = set(names)
        relevant = set(wanted)
        for knob in reversed(self.knobs):
            if knob.name in relevant:
                relevant.update(knob.others)

        def listed(knob: Knob) -> Iterable[Value]:
            return (values or self.walked)(knob) if knob.name in wanted else self._told_apart(knob)

        seen = set()
        for assignment in _listing(tuple(knob for knob in self.knobs if knob.name in relevant), listed):
            found = {name: value for name, value in assignment.items() if name in wanted}
            key = tuple((name, isinstance(value, bool), value) for name, value in found.items())
            if key not in seen:
                seen.add(key)
                yield found

    def walked(self, knob: Knob, most: int = POINTS) -> tuple[Value, ...]:
        """`spread` values of a knob, and those that conditions of other knobs name."""
        values = spread(knob, most)
        return (*values, *(value for value in self.named(knob) if not one_of(value, values)))

    def named(self, knob: Knob) -> tuple[Value, ...]:
        """The values of a knob that conditions of other knobs name, each once."""
        terms = (term for other in self.knobs for clause in other.conditions for term in clause)
        values = (value for term in terms if term.name == knob.name for value in term.values)
        return tuple(dict.fromkeys(value for value in values if contains(knob, value)))

    def _told_apart(self, knob: Knob) -> tuple[Value, ...]:
        """The values of a knob that conditions name, and one that none does."""
        named = self.named(knob)
        other = next((value for value in each_value(knob) if not one_of(value, named)), None)
        return named if other is None else (*named, other)

    def candidate(self, assignment: Mapping[str, Value]) -> Candidate:
        """The candidate for an assignment.

        Raises:
            BadInput: a knob is unknown, missing, or has a value outside of the space, or counts although its condition
                is not met.
        """
        for knob in self.knobs:
            active = knob.counts(assignment)
            if active and knob.name not in assignment:
                raise BadInput(f"a candidate of {self.source} needs a value for {knob.name}.")
            if not active and knob.name in assignment:
                raise BadInput(f"{knob.name} counts only when {describe(knob)}: leave it out here.")
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
            if not knob.counts(assignment):
                continue
            default = model if knob.name == "model.path" else self._default(knob.name)
            assignment[knob.name] = default if contains(knob, default) else grid(knob)[0]
        return self.candidate(assignment)

    def choice(self, candidate: Candidate, axis: Axis) -> dict[str, Value]:
        """The candidate's values for every knob of one axis, those it does not have at their defaults."""
        return self.with_defaults(candidate.values, axis.name)

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
        for name in sorted({name for known in capabilities.values() for name in known}):
            for found in self.together(("runtime.name", name), each_value):
                runtime = found.get("runtime.name", runtime_axis.domains["name"].default)
                allowed = capabilities[str(runtime)].get(name)
                if allowed is not None and name in found and not one_of(found[name], allowed):
                    raise BadInput(
                        f"{self.source}: {name}: the runtime {runtime} has no {found[name]!r}; it has "
                        f"{', '.join(repr(item) for item in allowed)} "
                        f"(or let {name} count only 'when: {{runtime.name: [...]}}')."
                    )

    def with_defaults(self, assignment: Mapping[str, Value], axis: str) -> dict[str, Value]:
        """The values of every knob of one axis, by short name; those that the assignment lacks at their defaults."""
        domains = next(one for one in self.axes if one.name == axis).domains
        return {name: assignment.get(f"{axis}.{name}", domain.default) for name, domain in domains.items()}

    def _default(self, name: str) -> Value:
        axis_name, knob_name = name.split(".", 1)
        return next(axis for axis in self.axes if axis.name == axis_name).domains[knob_name].default


def grid(knob: Knob) -> tuple[Value, ...]:
    """The knob's values; for a continuous range its two ends."""
    return tuple(each_value(knob))


def each_value(knob: Knob) -> Iterator[Value]:
    """The values of `grid`, one at a time."""
    if isinstance(knob, Choices):
        yield from knob.values
    else:
        count = 2 if knob.count is None else knob.count
        yield from (_at(knob, index) for index in range(count))


def spread(knob: Knob, most: int) -> tuple[Value, ...]:
    """At most so many numbers of a knob (two or more), evenly spread with both ends; every value of other choices."""
    if isinstance(knob, Choices):
        numbers = sorted(
            value for value in knob.values if isinstance(value, int | float) and not isinstance(value, bool)
        )
        if len(knob.values) <= most or len(numbers) < len(knob.values):
            return knob.values
        return tuple(numbers[round(index * (len(numbers) - 1) / (most - 1))] for index in range(most))
    if knob.count is None:
        return tuple(knob.low + index * (knob.high - knob.low) / (most - 1) for index in range(most))
    count = min(most, knob.count)
    return tuple(_at(knob, round(index * (knob.count - 1) / max(1, count - 1))) for index in range(count))


def _at(knob: Range, index: int) -> Value:
    if knob.count is None:
        return knob.high if index else knob.low
    value = knob.low + index * (knob.step or 1)
    return int(value) if knob.integer else value


def _listed(knob: Range, value: Value) -> bool:
    """Whether a value that the range contains is on its grid to the last bit."""
    return same(_at(knob, round((float(value) - knob.low) / (knob.step or 1))), value)


def _listing(knobs: tuple[Knob, ...], values: Callable[[Knob], Iterable[Value]]) -> Iterator[dict[str, Value]]:
    """Every assignment of the knobs that counts, the last knob varying fastest."""

    def extend(assignment: dict[str, Value], index: int) -> Iterator[dict[str, Value]]:
        while index < len(knobs) and not knobs[index].counts(assignment):
            index += 1
        if index == len(knobs):
            yield assignment
            return
        for value in values(knobs[index]):
            yield from extend({**assignment, knobs[index].name: value}, index + 1)

    return extend({}, 0)


def _defaults(axis: Axis) -> dict[str, Value]:
    return {name: domain.default for name, domain in axis.domains.items()}


def _knob_as_json(knob: Knob) -> list[object]:
    """The knob for `Space.id`: in what order values and conditions stand does not count."""
    when = {name: _sorted(values) for name, values in knob.when.items()}
    clauses = sorted(
        sorted(canonical_json([term.name, _sorted(term.values), term.among]) for term in clause)
        for clause in knob.clauses
    )
    if isinstance(knob, Choices):
        return [knob.name, _sorted(knob.values), when, clauses]
    return [knob.name, [knob.low, knob.high, knob.step, knob.log, knob.integer], when, clauses]


def _sorted(values: tuple[Value, ...]) -> list[str]:
    return sorted(canonical_json(value) for value in values)
