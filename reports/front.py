"""The front of a run: which trials belong to it, how sure that is, and how large a difference must be to count."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from objectives import pareto
from objectives.accuracy import paired_difference
from objectives.devices import seen_from, split
from objectives.latency import between_processes
from objectives.noise import noise_floor
from objectives.registry import OBJECTIVES, Objective, described
from objectives.run import RunFolder
from objectives.trial import Figure, Trial
from spaces.errors import BadInput
from spaces.reader import refuse_unknown

DEFAULT_OBJECTIVES = ("accuracy", "latency_p50_ms")

Scores: TypeAlias = Callable[[int], Mapping[str, float]]
"""From a trial's number to its score of each item, by the item's id; empty where it was not scored."""

LEAST_JUDGED = 3
"""Least number of intervals that a noise floor is taken from, where there are that many."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trial on the front. ``probability``: that no other trial dominates it, given everyone's intervals."""

    trial: Trial
    probability: float


@dataclass(frozen=True, kw_only=True)
class Front:
    """The result of :func:`front`.

    Attributes:
        objectives: in the order given.
        known: every figure that a trial of the run may have, by name.
        floors: the noise floor of each objective; a share of the value (0.05 is 5 %) where it is compared by ratio.
        members: from the best in the first objective to the worst.
        dominated: the other complete trials, by number.
        probabilities: by trial number, for all complete trials.
    """

    objectives: tuple[Objective, ...]
    known: Mapping[str, Objective]
    floors: Mapping[str, float]
    members: tuple[Member, ...]
    dominated: tuple[Trial, ...]
    probabilities: Mapping[int, float]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The members' trials."""
        return tuple(member.trial for member in self.members)


def front(
    trials: Sequence[Trial],
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    floors: Mapping[str, float] | None = None,
    scores: Scores | None = None,
    known: Mapping[str, Objective] = OBJECTIVES,
) -> Front:
    """The epsilon-Pareto front of the complete trials that have every objective measured.

    Members differ from each other beyond the noise floor; of trials that do not, the one that is better in the other
    objectives stays, then the one with the lower number. A floor that is not given is the median half-width of the
    95 % intervals on the exact front (:func:`objectives.noise.noise_floor`), of all these trials while that front has
    fewer than ``LEAST_JUDGED`` members. With ``scores`` accuracy's comes from differences, as all trials answer the
    same items: the median half-width of the paired differences' 95 % intervals between neighbours in accuracy on the
    exact front, where it has two members or more. ``known``: the figures that there are.

    Raises:
        BadInput: for an objective that vlmfront does not know.
    """
    chosen = objectives_by_name(objectives, known)
    scored = sorted((trial for trial in trials if _is_scored(trial, chosen)), key=lambda trial: trial.number)
    if not scored:
        return Front(
            objectives=chosen, known=known, floors=dict(floors or {}), members=(), dominated=(), probabilities={}
        )
    values = as_values(scored, chosen)
    feasible = np.ones(len(scored), dtype=bool)
    exact = [trial for trial, on in zip(scored, pareto.nondominated(values, feasible), strict=True) if on]
    judged = exact if len(exact) >= LEAST_JUDGED else scored
    noise = {
        objective.name: noise_floor((trial.figures[objective.name] for trial in judged), relative=objective.relative)
        for objective in chosen
    }
    if scores is not None and "accuracy" in noise and (differences := _neighbours(exact, scores)):
        noise["accuracy"] = noise_floor(differences, relative=False)
    noise |= {name: floor for name, floor in (floors or {}).items() if name in objectives}
    epsilon = np.array([math.log1p(noise[o.name]) if o.relative else noise[o.name] for o in chosen])
    mask = pareto.nondominated(values, feasible, epsilon)
    low, high = _ends(scored, chosen)
    chance = pareto.membership(values, low, high, feasible)
    on_front = [(*values[index], scored[index].number, index) for index in np.flatnonzero(mask)]
    return Front(
        objectives=chosen,
        known=known,
        floors=noise,
        members=tuple(Member(trial=scored[index], probability=float(chance[index])) for *_, index in sorted(on_front)),
        dominated=tuple(trial for trial, on in zip(scored, mask, strict=True) if not on),
        probabilities={trial.number: float(p) for trial, p in zip(scored, chance, strict=True)},
    )


def floors_of(run: RunFolder, device: str) -> dict[str, float]:
    """The noise floor of latencies on a device of the run: how well a bundle's p50 repeats in another process."""
    spread = between_processes([reference.measurement for reference in run.read_references(device)])
    return dict.fromkeys(("latency_p50_ms", "ttft_p50_ms", "token_p50_ms"), spread)


def scores_of(run: RunFolder, device: str = "") -> Scores:
    """The scores in a run's answers, read when they are asked for; damaged ones raise :class:`BadInput`.

    With ``device`` those of its own answers, where it has some that are not the trial's.
    """

    def read(number: int) -> dict[str, float]:
        try:
            return {answer.id: answer.score for answer in run.read_answers(number, device)}
        except (OSError, ValueError):
            raise BadInput(
                f"{run.path / 'answers'}: the answers of trial {number} cannot be read; move them away."
            ) from None

    return read


def front_of(run: RunFolder, trials: Sequence[Trial], device: str) -> Front:
    """The front of a run's trials on one of its devices, by the run's own objectives, noise floors and scores.

    Its trials are those seen from the device (:func:`objectives.devices.seen_from`).
    """
    names, known = objectives_of(run.settings, device), described(run.settings)
    seen = [seen_from(trial, device) for trial in trials]
    return front(seen, names, floors_of(run, device), scores_of(run, device), known)


def objectives_by_name(names: Sequence[str], known: Mapping[str, Objective] = OBJECTIVES) -> tuple[Objective, ...]:
    """The objectives of these names.

    Raises:
        BadInput: for a name that vlmfront does not know, with the nearest one.
    """
    refuse_unknown(dict.fromkeys(names), known, "objectives")
    return tuple(known[name] for name in names)


def as_values(trials: Sequence[Trial], objectives: Sequence[Objective]) -> pareto.Array:
    """(trials, objectives), to be minimised: negated where more is better, logarithms where compared by ratio."""
    return np.array([[_value(o, trial.figures[o.name].value) for o in objectives] for trial in trials], dtype=float)


def front_as_dict(found: Front) -> dict[str, Any]:
    """The front as plain JSON values: objectives, floors, members with candidate, figures, slices and probability."""
    return {
        "objectives": [{"name": o.name, "direction": o.direction} for o in found.objectives],
        "noise_floor": dict(found.floors),
        "members": [trial_as_dict(m.trial) | {"membership_probability": m.probability} for m in found.members],
        "dominated": [trial.number for trial in found.dominated],
    }


def trial_as_dict(trial: Trial) -> dict[str, Any]:
    """What a reader of ``--json`` needs of a trial."""
    return {
        "trial": trial.number,
        "candidate_id": trial.candidate_id,
        "candidate": dict(trial.candidate),
        "figures": {name: asdict(figure) for name, figure in trial.figures.items()},
        "slices": {
            field: {value: asdict(figure) for value, figure in values.items()} for field, values in trial.slices.items()
        },
        "labels": list(trial.labels),
    }


def objectives_of(settings: Mapping[str, Any], device: str) -> tuple[str, ...]:
    """The plain names of a run's objectives on one of its devices (``search.objectives`` in its settings).

    A device of several that none of them is bound to has the others, then the default's latency.
    """
    named = [split(name) for name in settings.get("search", {}).get("objectives") or DEFAULT_OBJECTIVES]
    found = [name for name, at in named if at in ("", device)]
    if any(at for _, at in named) and not any(at == device for _, at in named):
        found.append(DEFAULT_OBJECTIVES[1])
    return tuple(dict.fromkeys(found))


def _neighbours(trials: Sequence[Trial], scores: Scores) -> list[Figure]:
    """The paired differences between neighbours in accuracy; without those that share no item."""
    ranked = sorted(trials, key=lambda trial: (trial.figures["accuracy"].value or 0.0, trial.number))
    by_item = [scores(trial.number) for trial in ranked] if len(ranked) > 1 else []
    found = [paired_difference(better, worse) for worse, better in pairwise(by_item)]
    return [figure for figure in found if figure.value is not None]


def _is_scored(trial: Trial, objectives: Sequence[Objective]) -> bool:
    values = [trial.figures[o.name].value if o.name in trial.figures else None for o in objectives]
    positive = all(v is not None and (v > 0 or not o.relative) for v, o in zip(values, objectives, strict=True))
    return trial.state == "complete" and positive


def _value(objective: Objective, value: float | None) -> float:
    if value is None:
        raise BadInput(f"{objective.name}: a trial without this figure cannot be compared by it.")
    scaled = math.log(value) if objective.relative else value
    return -scaled if objective.direction == "max" else scaled


def _ends(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[pareto.Array, pareto.Array]:
    """The better and worse ends of the intervals, as in :func:`as_values`; the value where there are none."""

    def ends(figure: Figure, objective: Objective) -> tuple[float, float]:
        value = _value(objective, figure.value)
        if figure.low is None or figure.high is None or (objective.relative and figure.low <= 0):
            return value, value
        first, second = sorted((_value(objective, figure.low), _value(objective, figure.high)))
        return min(first, value), max(second, value)

    pairs = np.array([[ends(trial.figures[o.name], o) for o in objectives] for trial in trials])
    return pairs[:, :, 0], pairs[:, :, 1]
