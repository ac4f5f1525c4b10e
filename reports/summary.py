"""What stands at the head of a report: what was searched, the front in one sentence, and its best figures as tiles."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from objectives import pareto
from objectives.devices import devices_of
from objectives.registry import Objective
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.charts import chart_axes
from reports.front import Front, as_values
from reports.markup import Html, element, join
from reports.stages import stage_totals
from reports.words import duration, figure_of, is_predicted, number, plural, state_name, with_unit


def header(run: RunFolder, trials: Sequence[Trial], fronts: Mapping[str, Front]) -> Html:
    """The task, a sentence on the front of each device, and facts of the run."""
    search = run.settings.get("search", {})
    names = devices_of(run.settings)
    facts = {
        "Run": run.path.name,
        "Devices" if len(names) > 1 else "Device": ", ".join(names),
        "Budget": search.get("budget"),
        "Limits": _limits(search.get("limits")),
        "Trials": sum(trial.state != "running" for trial in trials),
        **{state_name(state).capitalize(): count for state, count in states(trials).items() if state != "complete"},
    }
    items = [element("li", f"{key} ", element("b", value)) for key, value in facts.items() if value is not None]
    return element(
        "header",
        element("div", "vlmfront · Pareto report", class_="eyebrow"),
        element("h1", task_name(run)),
        *[element("p", lead, class_="lead") for lead in _leads(trials, fronts)],
        element("ul", *items, class_="facts"),
    )


def _limits(limits: Any) -> str | None:
    """The limits of a search, such as ``memory_peak_mb max 220``; none without any."""
    if not isinstance(limits, Mapping) or not limits:
        return None
    return ", ".join(
        f"{name} {side} {bound}" for name, bounds in limits.items() for side, bound in dict(bounds).items()
    )


def _leads(trials: Sequence[Trial], fronts: Mapping[str, Front]) -> list[str]:
    if len(fronts) == 1:
        return [_lead(trials, found) for found in fronts.values()]
    return [f"On {name}: {_lead(trials, found)}" for name, found in fronts.items()]


def _lead(trials: Sequence[Trial], found: Front) -> str:
    if not found.members:
        return f"No configuration has been measured in full yet; {plural(len(trials), 'trial')} begun."
    n, k = len(found.members), len(found.members) + len(found.dominated)
    across, up = chart_axes(found)
    best, last = found.members[0].trial, found.members[-1].trial
    how = "predicted" if any(is_predicted(best, one) for one in found.objectives) else "measured"
    text = f"{n} of {k} {how} configurations {'is' if n == 1 else 'are'} on the front"
    span = f"{up.label.lower()} {_value(best, up)} at {_value(best, across)}"
    if n == 1:
        return f"{text}: {span}."
    return f"{text}: from {span} to {_value(last, up)} at {_value(last, across)}."


def tiles(trials: Sequence[Trial], found: Front) -> Html | None:
    """The best of a front, figure by figure, its knee, and the time in trials."""
    if not found.members:
        return None
    complete = len(found.members) + len(found.dominated)
    shown = [_tile("On the front", str(len(found.members)), f"of {complete} complete trials")]
    for objective in found.objectives:
        best = min(found.trials, key=lambda trial: (as_values([trial], [objective])[0, 0], trial.number))
        name = {"accuracy": "Best accuracy", "latency_p50_ms": "Fastest"}.get(objective.name, f"Best {objective.label}")
        others = [other for other in found.objectives if other != objective]
        more = f"trial {best.number}" + "".join(f", {_value(best, other)}" for other in others)
        shown.append(_tile(name, number(figure_of(best, objective.name).value, objective), more, objective.unit))
    middle = found.trials[pareto.knee(as_values(found.trials, found.objectives))]
    shown.append(
        _tile("Knee of the front", f"Trial {middle.number}", ", ".join(_value(middle, o) for o in found.objectives))
    )
    used = time_used(trials)
    if used:
        totals = stage_totals(trials)
        saved = sum(total.saved for total in totals)
        more = f"without finalists and references; {duration(saved)} saved by reuse"
        shown.append(_tile("Time in trials", duration(used), more))
    return element("div", *shown, class_="tiles")


def time_used(trials: Sequence[Trial]) -> float:
    """Seconds during which at least one trial was under way; pauses between a stop and its resume do not count."""
    total, until = 0.0, 0.0
    for begun, ended in sorted((trial.started, trial.finished) for trial in trials if trial.finished):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total


def _tile(what: str, value: str, more: str, unit: str = "") -> Html:
    small = join(" ", element("small", unit)) if unit else None
    parts = [("what", what), ("value", join(value, small)), ("more", more)]
    return element("div", *[element("div", text, class_=name) for name, text in parts], class_="tile")


def states(trials: Sequence[Trial]) -> dict[str, int]:
    """How many trials there are of each state."""
    return dict(Counter(trial.state for trial in trials).most_common())


def task_name(run: RunFolder) -> str:
    """The name of a run's task, else its own."""
    task = run.settings.get("task")
    return str(task.get("name") or run.name) if isinstance(task, Mapping) else run.name


def _value(trial: Trial, objective: Objective) -> str:
    return with_unit(figure_of(trial, objective.name).value, objective)
