"""Choosing one configuration from a front: under limits, by a preference, with the reasons in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from objectives import pareto
from objectives.registry import OBJECTIVES, Objective
from objectives.trial import Figure, Trial
from reports.front import Front, Scores, as_values, front, trial_as_dict
from reports.words import PREDICTED, describe, figure_of, interval, is_predicted, with_unit
from spaces.errors import BadInput
from spaces.reader import refuse_unknown

Limit: TypeAlias = tuple[Literal[">=", "<="], float]
PREFERENCES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "latency": "latency_p50_ms",
    "memory": "memory_peak_mb",
    "size": "size_mb",
    "energy": "energy_j",
}


@dataclass(frozen=True, kw_only=True)
class HoldoutCheck:
    """The picked trial scored on rows that no choice was made on.

    Attributes:
        accuracy, slices: on the holdout split.
        repeat: the split was used before in this run, so the figure may flatter.
    """

    accuracy: Figure
    slices: Mapping[str, Mapping[str, Figure]]
    repeat: bool


SHARES = frozenset({"accuracy", "accuracy_answered", "agreement", "retention", "abstention"})
"""Figures that are shares from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One trial and why it was chosen.

    Attributes:
        explanation: one or two sentences.
        runners_up: the other front members within the limits, best first by the same preference.
        known: every figure that the trial may have, by name.
    """

    trial: Trial
    prefer: str
    limits: Mapping[str, Limit]
    explanation: str
    runners_up: tuple[Trial, ...]
    known: Mapping[str, Objective] = field(default_factory=lambda: OBJECTIVES)
    holdout: HoldoutCheck | None = None


def pick(
    trials: Sequence[Trial],
    limits: Mapping[str, Limit],
    prefer: str = "knee",
    objectives: Sequence[str] = ("accuracy", "latency_p50_ms"),
    floors: Mapping[str, float] | None = None,
    scores: Scores | None = None,
    known: Mapping[str, Objective] = OBJECTIVES,
) -> Pick:
    """The trial that ``prefer`` likes best on the front of those that keep to the limits.

    ``knee`` is the member where giving up a little of one objective no longer buys much of another
    (:func:`objectives.pareto.knee`). ``accuracy``, ``latency``, ``memory``, ``size`` and ``energy`` take the best in
    that figure, which counts as an objective of the front if it was none. A limit holds for the figure's value, not for
    the end of its interval. ``floors``, ``scores`` and ``known`` as in :func:`reports.front.front`.

    Raises:
        BadInput: an unknown figure or preference, one that was not measured, or limits that no trial keeps to; then
            with the trial that comes nearest and by how much it misses.
    """
    refuse_unknown(limits, known, "limits")
    for name, (op, bound) in limits.items():
        if name in SHARES and bound > 1:
            raise BadInput(f"{name}{op}{bound:g}: {name} is a share from 0 to 1; {bound:g} % is {bound / 100:g}.")
    judged = _objectives(prefer, objectives)
    if prefer == "energy" and not any(figure_of(trial, "energy_j").value for trial in trials):
        raise BadInput(
            "--prefer energy: energy was not measured on this device; choose knee, accuracy, latency, memory or size."
        )
    kept = [trial for trial in trials if trial.state == "complete" and not any(_misses(trial, limits, known))]
    if not kept:
        raise BadInput(_none_meets(trials, limits, known))
    found = front(kept, judged, floors, scores, known)
    ranked = _ranked(found, prefer)
    if not ranked:
        raise BadInput(f"no complete trial has all of {', '.join(judged)} measured; pick needs at least one.")
    free = _ranked(front(trials, judged, floors, scores, known), prefer)[0] if limits else ranked[0]
    return Pick(
        trial=ranked[0],
        prefer=prefer,
        limits=dict(limits),
        explanation=_explain(ranked, free, prefer, limits, found.objectives, len(objectives)),
        known=known,
        runners_up=tuple(ranked[1:]),
    )


def with_holdout(picked: Pick, check: HoldoutCheck) -> Pick:
    """The pick with its holdout figure, and a sentence that compares it with the figure of the search."""
    before, after = figure_of(picked.trial, "accuracy"), check.accuracy
    accuracy = OBJECTIVES["accuracy"]
    words = [picked.explanation, f"On {after.n} holdout items it scores {_figure(after, accuracy)}"]
    if before.value is not None and after.value is not None:
        gap = 100 * (after.value - before.value)
        inside = before.low is not None and before.high is not None and before.low <= after.value <= before.high
        sign = "within" if inside else "outside"
        words[1] += (
            f", {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} its {before.value:.3f} in the search "
            f"({sign} that figure's interval)"
        )
    words[1] += "."
    if check.repeat:
        words.append("The holdout split was used before in this run, so this figure may flatter.")
    return replace(picked, explanation=" ".join(words), holdout=check)


def pick_as_dict(picked: Pick) -> dict[str, Any]:
    """The pick as plain JSON values."""
    return trial_as_dict(picked.trial) | {
        "prefer": picked.prefer,
        "limits": {name: f"{op}{value:g}" for name, (op, value) in picked.limits.items()},
        "explanation": picked.explanation,
        "runners_up": [trial.number for trial in picked.runners_up],
        "holdout": None if picked.holdout is None else asdict(picked.holdout),
    }


def _objectives(prefer: str, objectives: Sequence[str]) -> tuple[str, ...]:
    refuse_unknown({prefer: None}, ["knee", *PREFERENCES], "--prefer")
    wanted = PREFERENCES.get(prefer)
    return tuple(objectives) if wanted is None or wanted in objectives else (*objectives, wanted)


def _ranked(found: Front, prefer: str) -> list[Trial]:
    """The front's members, the preferred one first."""
    rest = list(found.trials)
    if prefer == "knee":
        ranked = []
        while rest:
            ranked.append(rest.pop(pareto.knee(as_values(rest, found.objectives))))
        return ranked
    leading = found.known[PREFERENCES[prefer]]
    order = [leading, *(objective for objective in found.objectives if objective != leading)]
    return sorted(rest, key=lambda trial: (*as_values([trial], order)[0], trial.number))


def _misses(trial: Trial, limits: Mapping[str, Limit], known: Mapping[str, Objective]) -> list[str]:
    """The limits that a trial does not keep to, by how much."""
    missed = []
    for name, (op, bound) in limits.items():
        objective, value = known[name], figure_of(trial, name).value
        if value is None:
            missed.append(f"{name} was not measured")
        elif (value < bound) if op == ">=" else (value > bound):
            missed.append(f"{name} is {with_unit(value, objective)}, {with_unit(abs(value - bound), objective)} off")
    return missed


def _none_meets(trials: Sequence[Trial], limits: Mapping[str, Limit], known: Mapping[str, Objective]) -> str:
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        missed = [t for t in trials if t.violated]
        if missed:
            return (
                f"every trial misses a limit of the search; trial {missed[0].number}: {'; '.join(missed[0].violated)}."
            )
        return "there is no complete trial to pick from; search for longer."
    wanted = " and ".join(f"{name}{op}{value:g}" for name, (op, value) in limits.items())
    nearest = min(complete, key=lambda trial: (_distance(trial, limits), trial.number))
    short = ", ".join(_misses(nearest, limits, known))
    return f"no trial keeps to {wanted}; the nearest is trial {nearest.number}: {short}."


def _distance(trial: Trial, limits: Mapping[str, Limit]) -> float:
    """The sum over the limits of what is missing, as a share of the limit; infinite where a figure is not known."""
    total = 0.0
    for name, (op, bound) in limits.items():
        value = figure_of(trial, name).value
        if value is None:
            return float("inf")
        total += max(0.0, bound - value if op == ">=" else value - bound) / (abs(bound) or 1.0)
    return total


def _explain(
    ranked: Sequence[Trial],
    free: Trial,
    prefer: str,
    limits: Mapping[str, Limit],
    judged: Sequence[Objective],
    searched: int,
) -> str:
    """Why the first of ``ranked``. Where more is judged than the ``searched`` objectives, that front is named."""
    chosen = ranked[0]
    front = "the front"
    of = f" of {len(ranked)} front members" if len(ranked) > 1 else ""
    if len(judged) > searched:
        front = f"the front of {', '.join(one.label.lower() for one in judged)}"
        of = f" of {len(ranked)} members of {front}" if len(ranked) > 1 else ""
    within = f" within {' and '.join(f'{name}{op}{bound:g}' for name, (op, bound) in limits.items())}" if limits else ""
    reason = {
        "knee": "is the knee of the front (least sum of scaled objectives)",
        "accuracy": "is the most accurate",
        "latency": "is the fastest",
        "memory": "needs the least memory",
        "size": "is the smallest",
        "energy": "needs the least energy",
    }[prefer]
    figures = ", ".join(
        f"{one.label.lower()} {_figure(figure_of(chosen, one.name), one)}"
        + (f" ({PREDICTED})" if is_predicted(chosen, one) else "")
        for one in judged
    )
    if len(ranked) == 1:
        reason = f"is the only member of {front}"
    sentences = [f"Trial {chosen.number} ({', '.join(describe(chosen.candidate))}) {reason}{of}{within}: {figures}."]
    if free.number != chosen.number:
        lost = _compare(free, chosen, judged)
        sentences.append(f"Without the limit it would be trial {free.number}: {lost}.")
    elif len(ranked) > 1:
        sentences.append(f"Next is trial {ranked[1].number}: {_compare(ranked[1], chosen, judged)}.")
    return " ".join(sentences)


def _compare(first: Trial, second: Trial, judged: Sequence[Objective]) -> str:
    """What ``first`` gives against ``second``, figure by figure."""
    return ", ".join(_difference(first, second, objective) for objective in judged)


def _difference(first: Trial, second: Trial, objective: Objective) -> str:
    a, b = figure_of(first, objective.name).value, figure_of(second, objective.name).value
    label = objective.label.lower()
    if a is None or b is None:
        return f"{label} not measured"
    if objective.relative:
        change = f"{100 * (a / b - 1):+.0f} %"
    else:
        change = f"{a - b:+.3g}" if objective.unit else f"{100 * (a - b):+.1f} points"
    return f"{label} {with_unit(a, objective)} ({change.replace('-', '−')})"


def _figure(figure: Figure, objective: Objective) -> str:
    return f"{with_unit(figure.value, objective)} {interval(figure, objective)}".strip()
