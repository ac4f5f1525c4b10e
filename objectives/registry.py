"""The figures that trials can be compared by: what each one is called, which way is better, and how it comes about."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, get_args

from hardware_profiles.messages import Measurement
from objectives.abstention import abstention, accuracy_answered
from objectives.accuracy import accuracy, paired_difference
from objectives.costs import expected_cost
from objectives.energy import energy_figure
from objectives.latency import BETWEEN_PROCESSES, latency_figure
from objectives.memory import memory_above_figure, memory_figure, size_figure
from objectives.normal import normalise
from objectives.task import Task
from objectives.trial import Figure
from spaces.errors import BadInput
from spaces.references import lacking, load_installed, load_reference
from spaces.sample import Sample

GROUP = "vlmfront.objectives"

Direction: TypeAlias = Literal["max", "min"]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_METADATA = ("name", "label", "unit", "direction", "relative")


@dataclass(frozen=True, kw_only=True)
class Retained:
    """How a candidate did on the retention set. ``unmodified``: the scores of the unmodified reference, by id."""

    task: Task
    samples: Sequence[Sample]
    answers: Sequence[str]
    scores: Sequence[float]
    unmodified: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known of a trial when its figures are worked out; what is not known yet is empty or null.

    Attributes:
        samples, answers, scores: the rows of the search split that were scored; scores are in 0..1.
        spread: how far a p50 strays between processes on this device, as a share.
        on: where a search has several devices, the fields of this outcome that are each device's own.
        unmodified: answers of the candidate's own model as it comes, by id of the row.
    """

    task: Task
    samples: Sequence[Sample] = ()
    answers: Sequence[str] = ()
    scores: Sequence[float] = ()
    size_bytes: int | None = None
    measurement: Measurement | None = None
    spread: float = BETWEEN_PROCESSES
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unmodified: Mapping[str, str] | None = None
    retained: Retained | None = None


class Objective(Protocol):
    """A figure that trials can be compared by. A plug-in is one object with these.

    Attributes:
        name: the key in ``Trial.figures``: a lower-case letter, then up to 39 such letters, digits or ``_``.
        label, unit: for readers; a share in 0..1 has no unit.
        direction: which way is better.
        relative: compared by ratio (milliseconds, megabytes: always above 0), not by difference (shares).

    One that reads ``Outcome.measurement`` also has ``of_device = True``: a search of several devices then has it once
    for each (see :mod:`objectives.devices`). Others never see a measurement in such a search.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def direction(self) -> Direction: ...
    @property
    def relative(self) -> bool: ...

    def figure(self, outcome: Outcome) -> Figure:
        """The figure of an outcome; null where the outcome does not say enough. Pure, and called as more is known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An objective made of a function."""

    name: str
    label: str
    unit: str
    direction: Direction
    relative: bool
    derive: Callable[[Outcome], Figure]
    of_device: bool = False

    def figure(self, outcome: Outcome) -> Figure:
        """As in :class:`Objective`."""
        return self.derive(outcome)


def agreement(outcome: Outcome) -> Figure:
    """How far the answers are those of the unmodified reference: the mean over the items, with Wilson's 95 % interval.

    An item counts 1 where both answers are equal after normalising, else as the task's metric scores the answer with
    the reference's as the only right one; an empty answer agrees with an empty one alone.
    """
    if outcome.unmodified is None:
        return Figure(value=None)
    told = outcome.unmodified
    rows = zip(outcome.samples, outcome.answers, strict=True)
    return accuracy([_agrees(outcome.task, row, answer, told[row.id]) for row, answer in rows])


def _agrees(task: Task, sample: Sample, answer: str, told: str) -> float:
    if not normalise(told) or normalise(answer) == normalise(told):
        return float(normalise(answer) == normalise(told))
    return task.score(answer, replace(sample, answers=(told,)))


def retention(outcome: Outcome) -> Figure:
    """Accuracy on the retention set, by that set's own metric."""
    return accuracy(outcome.retained.scores) if outcome.retained else Figure(value=None)


def forgetting(outcome: Outcome) -> Figure:
    """The unmodified reference's accuracy on the retention set less the candidate's; its interval is paired by item."""
    kept = outcome.retained
    if kept is None or kept.unmodified is None:
        return Figure(value=None)
    now = {row.id: score for row, score in zip(kept.samples, kept.scores, strict=True)}
    return paired_difference(kept.unmodified, now)


def _abstention(outcome: Outcome) -> Figure:
    return abstention(outcome.answers, outcome.samples, outcome.task)


def _accuracy_answered(outcome: Outcome) -> Figure:
    return accuracy_answered(outcome.answers, outcome.samples, outcome.task)


def _expected_cost(outcome: Outcome) -> Figure:
    if outcome.task.costs is None:
        return Figure(value=None)
    return expected_cost(outcome.answers, outcome.samples, outcome.task)


def _latency(name: str) -> Callable[[Outcome], Figure]:
    def derive(outcome: Outcome) -> Figure:
        if outcome.measurement is None:
            return Figure(value=None)
        return latency_figure(name, outcome.measurement, outcome.spread)

    return derive


def _of_measurement(figure: Callable[[Measurement], Figure]) -> Callable[[Outcome], Figure]:
    return lambda outcome: Figure(value=None) if outcome.measurement is None else figure(outcome.measurement)


def _size(outcome: Outcome) -> Figure:
    return Figure(value=None) if outcome.size_bytes is None else size_figure(outcome.size_bytes)


def _accuracy(outcome: Outcome) -> Figure:
    return accuracy(outcome.scores)


def _unknown(outcome: Outcome) -> Figure:  # noqa: ARG001
    return Figure(value=None)


def _share(name: str, label: str, direction: Direction, derive: Callable[[Outcome], Figure]) -> Definition:
    return Definition(name=name, label=label, unit="", direction=direction, relative=False, derive=derive)


def _measured(
    name: str, label: str, unit: str, derive: Callable[[Outcome], Figure], *, of_device: bool = True
) -> Definition:
    return Definition(
        name=name, label=label, unit=unit, direction="min", relative=True, derive=derive, of_device=of_device
    )


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        _share("accuracy", "Accuracy", "max", _accuracy),
        _measured("latency_p50_ms", "Latency p50", "ms", _latency("latency_p50_ms")),
        _measured("ttft_p50_ms", "TTFT p50", "ms", _latency("ttft_p50_ms")),
        _measured("token_p50_ms", "Per token p50", "ms", _latency("token_p50_ms")),
        _measured("memory_peak_mb", "Peak memory", "MB", _of_measurement(memory_figure)),
        _measured("size_mb", "Size", "MB", _size, of_device=False),
        _measured("load_s", "Load time", "s", _latency("load_s")),
        *(_measured(f"latency_p{p}_ms", f"Latency p{p}", "ms", _latency(f"latency_p{p}_ms")) for p in (90, 95, 99)),
        _measured("memory_above_mb", "Memory above runtime", "MB", _of_measurement(memory_above_figure)),
        _measured("energy_j", "Energy per answer", "J", _of_measurement(energy_figure)),
        _share("agreement", "Agreement", "max", agreement),
        _share("retention", "Retention", "max", retention),
        _share("forgetting", "Forgetting", "min", forgetting),
        _share("abstention", "Abstention", "min", _abstention),
        _share("accuracy_answered", "Accuracy when answered", "max", _accuracy_answered),
        Definition(name="cost", label="Cost", unit="an item", direction="min", relative=False, derive=_expected_cost),
    )
}


def available(references: Iterable[str] = ()) -> dict[str, Objective]:
    """The built-in objectives, those of installed plug-ins, then ``references`` (``module:attr``), by name.

    Raises:
        BadInput: one of them is no objective, or two have one name.
    """
    found = dict(OBJECTIVES)
    for objective in [*load_installed("objective", GROUP, flaw), *map(load, references)]:
        if found.get(objective.name, objective) is not objective:
            raise BadInput(f"two objectives are called {objective.name!r}: rename or remove one of them.")
        found[objective.name] = objective
    return found


def load(reference: str) -> Objective:
    """The objective that ``module:attr`` names.

    Raises:
        BadInput: there is no such module or attribute, or it is no objective.
    """
    objective: Objective = load_reference("objective", reference, flaw)
    return objective


def flaw(objective: Any) -> str:
    """What keeps an object from being an objective: it lacks something, or has something that is none; else empty."""
    wrong = lacking(objective, (*_METADATA, "figure"), "objectives.registry.Objective")
    if wrong:
        return wrong
    if not isinstance(objective.name, str) or not _NAME.fullmatch(objective.name):
        return f"name: lower-case letters, digits and '_' are expected, not {objective.name!r}"
    if objective.direction not in get_args(Direction):
        return f"direction: max or min is expected, not {objective.direction!r}"
    if not all(isinstance(text, str) for text in (objective.label, objective.unit)) or not objective.label:
        return "label and unit are texts, and the label is not empty"
    if not isinstance(objective.relative, bool) or not callable(objective.figure):
        return "relative is true or false, and figure is a function of an Outcome"
    return ""


def metadata(objective: Objective) -> dict[str, Any]:
    """What a reader of a run needs of an objective that may not be installed where it is read."""
    known = {name: getattr(objective, name) for name in _METADATA}
    return known | ({"of_device": True} if of_device(objective) else {})


def of_device(objective: Objective) -> bool:
    """Whether the figure is of what one device measured."""
    return bool(getattr(objective, "of_device", False))


def described(settings: Mapping[str, Any]) -> Mapping[str, Objective]:
    """The built-in objectives and those that a run's settings describe (``search.figures``), by name.

    Raises:
        BadInput: a description is damaged.
    """
    given = settings.get("search", {}).get("figures", [])
    try:
        defined = [Definition(**one, derive=_unknown) for one in given]
    except TypeError as error:
        raise BadInput(f"run.json: search.figures: an objective is not as it should be ({error}).") from None
    for objective in defined:
        if wrong := flaw(objective):
            raise BadInput(f"run.json: search.figures: {wrong}.")
    return {**OBJECTIVES, **{objective.name: objective for objective in defined}}
