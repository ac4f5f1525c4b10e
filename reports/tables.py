"""The tables of the report: trials, accuracy by slice, confusion, failures, baselines."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from textwrap import shorten

from objectives.records import Baseline
from objectives.registry import OBJECTIVES, Objective
from objectives.trial import Figure, Trial
from reports.charts import COLOURS, baseline_name
from reports.front import Front
from reports.markup import Html, element, head, join, table
from reports.words import by_kind, describe, figure_of, figures_of, interval, model_path, number, state_name, value_name

_FIGURES = ("latency_p50_ms", "latency_p95_ms", "energy_j", "size_mb", "memory_peak_mb", "ttft_p50_ms", "token_p50_ms")
_MOST_COLUMNS = 6
_HEADS = {
    "latency_p50_ms": ("Latency", "p50, ms"),
    "latency_p95_ms": ("Latency", "p95, ms"),
    "energy_j": ("Energy", "an answer, J"),
    "ttft_p50_ms": ("TTFT", "p50, ms"),
    "token_p50_ms": ("Per token", "p50, ms"),
    "memory_peak_mb": ("Memory", "peak, MB"),
    "size_mb": ("Size", "MB"),
}
_ELSEWHERE = ("accuracy", "accuracy_answered", "load_s", "latency_p90_ms", "latency_p99_ms", "memory_above_mb")
_MOST_OF_LABEL = 120
"""Characters of a note, a reason with a process's arguments among them, before the row grows too high."""
_WITH_INTERVAL = ("latency_p50_ms",)
_ACCURACY = OBJECTIVES["accuracy"]


def trials_table(
    trials: Sequence[Trial],
    found: Front,
    order: Mapping[str, str],
    fields: Mapping[str, Sequence[str]],
    shared: Sequence[str],
    *,
    states: bool,
) -> Html:
    """A sortable table, a row for each trial.

    ``order``: models by colour (:func:`reports.charts.model_order`);
    ``fields``: slices that have columns; ``shared``: labels that rows do not repeat.
    """
    figures = _columns(trials, found)
    heads = [head("Trial"), head("State", num=False) if states else None, head("Configuration", num=False)]
    heads.append(head("Accuracy"))
    heads += _slice_heads(fields, sort=True)
    heads += [head(*_HEADS.get(one.name, (one.label, one.unit))) for one in figures]
    heads += [
        head("P(front)", title="Probability that no other trial dominates it, given the intervals"),
        head("Notes", num=False),
    ]
    rows = []
    for trial in trials:
        cells = [element("td", trial.number, class_="num", data_v=trial.number)]
        if states:
            cells.append(element("td", element("span", state_name(trial.state), class_=f"state {trial.state}")))
        cells += [_configuration(trial, order), _cell(figure_of(trial, "accuracy"), _ACCURACY, ci=True)]
        for field, values in fields.items():
            for value in values:
                figure = trial.slices.get(field, {}).get(value, Figure(value=None))
                cells.append(_cell(figure, _ACCURACY, ci=False))
        cells += [_cell(figure_of(trial, one.name), one, ci=one.name in _WITH_INTERVAL) for one in figures]
        chance = found.probabilities.get(trial.number)
        cells.append(element("td", "–" if chance is None else f"{chance:.2f}", class_="num", data_v=_key(chance)))
        notes = [label for label in trial.labels if label not in shared]
        notes += [f"{figure_of(trial, 'accuracy').n} items"] if trial.state == "pruned" else []
        cells.append(element("td", *(_label(alike) for alike in by_kind(notes))))
        rows.append(element("tr", *cells, data_trial=trial.number, data_state=trial.state, tabindex="0"))
    return table(heads, rows, "sortable all-trials" if states else "sortable")


def detail(trial: Trial, found: Front, order: Mapping[str, str], *, shown: bool) -> Html:
    """Everything about one trial, for the panel beside the chart."""
    figures = [
        (objective.label, f"{number(figure.value, objective)} {objective.unit}".strip())
        for objective, figure in figures_of(trial, found.known)
    ]
    if trial.number in found.probabilities:
        figures.append(("P(front)", f"{found.probabilities[trial.number]:.2f}"))
    slices = [
        (value_name(value), number(figure.value, _ACCURACY))
        for field, values in trial.slices.items()
        for value, figure in values.items()
    ]
    model, *rest = describe(trial.candidate, order)
    knobs = _pairs([(name, str(value)) for name, value in trial.candidate.items()])
    parts = [
        element("h3", _dot(trial, order), f"Trial {trial.number} · {model}"),
        element("p", *_chips(rest)),
        _pairs(figures),
        element("h4", "Accuracy by slice") if slices else None,
        _pairs(slices) if slices else None,
        element("details", element("summary", "All knobs"), knobs),
    ]
    return element("div", *parts, data_detail=trial.number, hidden=not shown)


def slice_table(field: str, values: Sequence[str], trials: Sequence[Trial], order: Mapping[str, str]) -> Html:
    """Accuracy of trials by the values of one field, shaded by the share above the lowest one shown."""
    known = [f.value for t in trials for f in t.slices.get(field, {}).values() if f.value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    heads = [head("Trial"), head("Configuration", num=False), *[head(value or "none") for value in values]]
    rows = []
    for trial in trials:
        cells = [element("td", trial.number, class_="num", data_v=trial.number), _configuration(trial, order)]
        for value in values:
            figure = trial.slices.get(field, {}).get(value, Figure(value=None))
            shade = 0.0 if figure.value is None else 55 * (figure.value - low) / ((high - low) or 1.0)
            text = number(figure.value, _ACCURACY)
            title = f"{interval(figure, _ACCURACY)} n={figure.n}"
            style = f"--v:{shade:.0f}"
            cells.append(element("td", text, class_="cell", style=style, title=title, data_v=_key(figure.value)))
        rows.append(element("tr", *cells, data_trial=trial.number, tabindex="0"))
    return table(heads, rows, "sortable heat")


def confusion_table(counts: Mapping[str, Mapping[str, int]]) -> Html:
    """How often each right answer (rows) got each answer, shaded by its share of the row."""
    answers = list(dict.fromkeys(answer for given in counts.values() for answer in given))
    rows = []
    for truth, given in counts.items():
        total = sum(given.values())
        cells = [
            element("td", n := given.get(answer, 0), class_="cell", style=f"--v:{55 * n / (total or 1):.0f}", data_v=n)
            for answer in answers
        ]
        rows.append(element("tr", element("td", truth), *cells, element("td", total, class_="num", data_v=total)))
    heads = [head("Right answer", num=False), *map(head, answers), head("Items")]
    return table(heads, rows, "sortable heat")


def failures_table(trials: Sequence[Trial]) -> Html | None:
    """Trials that gave no front candidate, by state and reason; none when there are none."""
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for trial in trials:
        if trial.state in ("failed", "infeasible", "pruned"):
            reason = "; ".join(trial.violated) if trial.state == "infeasible" and trial.violated else trial.reason
            groups[trial.state, reason or "no reason was recorded"].append(trial.number)
    if not groups:
        return None
    rows = [
        element(
            "tr",
            element("td", element("span", state_name(state), class_=f"state {state}")),
            element("td", reason),
            element("td", len(numbers), class_="num", data_v=len(numbers)),
            element("td", ", ".join(map(str, numbers[:20])) + (" …" if len(numbers) > 20 else "")),
        )
        for (state, reason), numbers in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    heads = [head("State", num=False), head("Reason", num=False), head("Trials"), element("th", "Numbers")]
    return table(heads, rows, "sortable")


def baselines_table(baselines: Sequence[Baseline], fields: Mapping[str, Sequence[str]]) -> Html:
    """Accuracy of each baseline, and by the slices that have columns."""
    heads = [element("th", "Baseline"), head("Accuracy", sort=False)]
    heads += _slice_heads(fields, sort=False)
    heads.append(element("th", "How"))
    rows = []
    for line in baselines:
        cells = [element("td", baseline_name(line)), _cell(line.accuracy, _ACCURACY, ci=True)]
        cells += [
            _cell(line.slices.get(field, {}).get(value, Figure(value=None)), _ACCURACY, ci=False)
            for field, values in fields.items()
            for value in values
        ]
        rows.append(element("tr", *cells, element("td", line.explained)))
    return table(heads, rows, "")


def shared_labels(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The labels that every one of several trials has; none for a single trial."""
    if len(trials) < 2:
        return ()
    return tuple(label for label in trials[0].labels if all(label in trial.labels for trial in trials))


def slice_fields(trials: Sequence[Trial]) -> dict[str, tuple[str, ...]]:
    """The slice fields of these trials and all their values, sorted; fields with one value are left out."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        for field, values in trial.slices.items():
            found.setdefault(field, set()).update(values)
    return {field: tuple(sorted(values)) for field, values in found.items() if len(values) > 1}


def _columns(trials: Sequence[Trial], found: Front) -> list[Objective]:
    """The figures that have a column, as many as the page is wide; the others stand in the panel beside the chart."""
    had = {objective.name for trial in trials for objective, _ in figures_of(trial, found.known)}
    more = [name for name in found.known if name in had and name not in (*_FIGURES, *_ELSEWHERE)]
    first = [one.name for one in found.objectives if one.name not in _ELSEWHERE]
    fixed = [name for name in _FIGURES if name in had or name not in ("latency_p95_ms", "energy_j")]
    names = list(dict.fromkeys([*first, _FIGURES[0], *more, *fixed]))[:_MOST_COLUMNS]
    return [found.known[name] for name in (*_FIGURES, *more) if name in names]


def _slice_heads(fields: Mapping[str, Sequence[str]], *, sort: bool) -> list[Html]:
    pairs = [(field, value) for field, values in fields.items() for value in values]
    return [head(value_name(value), field, sort=sort) for field, value in pairs]


def _cell(figure: Figure, objective: Objective, *, ci: bool) -> Html:
    around = interval(figure, objective) if ci else ""
    small = element("span", around, class_="ci") if around else None
    return element("td", number(figure.value, objective), small, class_="num", data_v=_key(figure.value))


def _key(value: float | None) -> str:
    return "" if value is None else repr(value)


def _configuration(trial: Trial, order: Mapping[str, str]) -> Html:
    model, *rest = describe(trial.candidate, order)
    name = element("span", _dot(trial, order), model, class_="model")
    short = " · ".join(phrase if len(phrase) <= 32 else f"{phrase[:30].rstrip()}…" for phrase in rest)
    phrases = element("div", short, class_="phrases", title=" · ".join(rest))
    return element("td", name, phrases if rest else None, class_="config", data_v=model)


def _chips(phrases: Sequence[str]) -> list[Html]:
    return [element("span", phrase, class_="chip", title=phrase if len(phrase) > 30 else None) for phrase in phrases]


def _dot(trial: Trial, order: Mapping[str, str]) -> Html:
    path = model_path(trial.candidate)
    colour = f"var(--m{list(order).index(path) % COLOURS})" if path in order else "var(--muted)"
    return element("span", class_="dot", style=f"background:{colour}")


def _label(labels: Sequence[str]) -> Html:
    """One for labels that differ in numbers alone, such as those of a finalist's processes; its title shows all."""
    shown = shorten(labels[0], _MOST_OF_LABEL, placeholder=" …")
    return element("span", shown, class_="label", title="\n".join(labels))


def _pairs(pairs: Sequence[tuple[str, str]]) -> Html:
    return element("dl", join(*[join(element("dt", key), element("dd", value)) for key, value in pairs]))
