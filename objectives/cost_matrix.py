"""A cost matrix: what each wrong answer costs, false alarms against misses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from objectives.normal import normalise
from spaces.sample import Sample

OTHER, UNKNOWN = "(other)", "(unknown)"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A cost matrix over classes of answers.

    Attributes:
        classes: the answers that a judged row may have.
        matrix: (classes, classes) costs of at least 0; rows are the truth, columns the answer. With the classes
            ``[ok, defect]``, ``matrix[0][1]`` is the cost of a false alarm and ``matrix[1][0]`` that of a miss.
        other: by class of the truth, the cost of an answer that is no class.
        unknown: by class of the truth, the cost of an abstention.
        where: field -> values; only rows that have one of the values in each of these fields are judged.
    """

    classes: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    other: tuple[float, ...]
    unknown: tuple[float, ...]
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def judged(self, sample: Sample) -> bool:
        """Whether a row counts."""
        return all(sample.value(name) in values for name, values in self.where.items())

    def class_of(self, text: str) -> int | None:
        """The place of the class that a text is after normalising; null where it is none."""
        return self._places.get(normalise(text))

    def outcome(self, answer: str, sample: Sample, unknown: Sequence[str]) -> tuple[int, int | str]:
        """The class of a judged row, by its first reference, and the class of the answer, ``OTHER`` or ``UNKNOWN``.

        An answer that equals any reference of the row is of the row's class.

        Raises:
            ValueError: the first reference is no class.
        """
        truth, given = self.class_of(sample.answers[0]), normalise(answer)
        if truth is None:
            raise ValueError(f"the reference {sample.answers[0]!r} of row {sample.id!r} is none of {self.classes}")
        if given in map(normalise, sample.answers):
            return truth, truth
        place = self.class_of(answer)
        if place is not None:
            return truth, place
        return truth, UNKNOWN if given in map(normalise, unknown) else OTHER

    def cost(self, truth: int, answer: int | str) -> float:
        """The cost of one outcome."""
        if isinstance(answer, int):
            return self.matrix[truth][answer]
        return (self.unknown if answer == UNKNOWN else self.other)[truth]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest cost that one row can have."""
        every = [cost for row in self.matrix for cost in row] + [*self.other, *self.unknown]
        return min(every), max(every)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {normalise(name): place for place, name in enumerate(self.classes)}
