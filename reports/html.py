"""The report of a run: one HTML file that needs nothing else, opens from disk, and loads nothing from anywhere."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hardware_profiles.store import write_atomic
from objectives import pareto
from objectives.folders import DISK_FAILS, refuse_read_only
from objectives.records import Baseline, HoldoutUse
from objectives.registry import Objective
from objectives.run import RunFolder
from objectives.trial import Trial
from reports import tables
from reports.charts import NAMED_BASELINES, chart_axes, front_chart, model_order
from reports.front import Front, as_values, front_of
from reports.markup import Html, card, element, join
from reports.method import method
from reports.sections import Section, available, rendered
from reports.stages import stage_totals, time_table
from reports.words import MOST_PARTS, duration, figure_of, floor_in_words, number, with_unit
from spaces.errors import BadInput

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_MOST_DETAILS = 1000


def write_report(run: RunFolder, sections: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into a run folder, finished or still being written, and give its path.

    ``sections`` are references (``module:attr``) to sections that are added to those of installed plug-ins.

    Raises:
        BadInput: a file of the run is damaged, or the folder cannot be written to.
        OSError: the disk is full or broken.
    """
    path = run.path / "report.html"
    try:
        refuse_read_only(run.path)
        write_atomic(path, report_html(run, available(sections)))
    except OSError as error:
        if error.errno in DISK_FAILS:
            raise
        raise BadInput(f"{path}: the report cannot be written ({error.strerror or error}).") from None
    return path


def report_html(run: RunFolder, extra: Sequence[Section] = ()) -> str:
    """The report as text, plug-ins' sections last. Everything that comes from the run is escaped."""
    from plotly.offline import get_plotlyjs

    trials = run.read_trials()
    found = front_of(run, trials)
    baselines, uses = run.read_baselines(), run.holdout_uses()
    assets = files("reports") / "assets"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{_task_name(run)} · vlmfront report"),
        element("style", Html((assets / "report.css").read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        element("main", *_sections(run, trials, found, baselines, uses), *(rendered(one, run) for one in extra)),
        _data("front-data", front_chart(found, baselines, _model_order(run, found)) if found.members else None),
        element("script", Html(get_plotlyjs())),
        element("script", Html((assets / "report.js").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _sections(
    run: RunFolder,
    trials: Sequence[Trial],
    found: Front,
    baselines: Sequence[Baseline],
    uses: Sequence[HoldoutUse],
) -> list[Html]:
    complete = [*found.trials, *found.dominated]
    order = _model_order(run, found)
    fields = tables.slice_fields(complete)
    columns = {field: values for field, values in fields.items() if len(values) <= MOST_PARTS}
    shared = tables.shared_labels(complete)
    common = f" Holds for every trial: {'; '.join(shared)}." if shared else ""
    wide = {field: values for field, values in fields.items() if field not in columns}
    sections: list[Html | None] = [_header(run, trials, found), _tiles(trials, found), _chart(trials, found, order)]
    if found.members:
        sections.append(
            card(
                "On the front",
                f"Members differ from one another beyond the noise floor. Choose a row to see it in the chart.{common}",
                tables.trials_table(found.trials, found, order, columns, shared, states=False),
            )
        )
        for field, values in wide.items():
            note = "Front members only. Point at a cell for its 95 % interval and number of items."
            sections.append(card(f"Accuracy by {field}", note, tables.slice_table(field, values, found.trials, order)))
        sections.append(_confusion(found))
    if baselines or found.members:
        sections.append(_baselines(baselines, columns))
    sections += [
        _time(trials),
        _failures(trials),
        _all_trials(trials, found, order, columns, shared),
        method(run, trials, found, uses),
    ]
    return [section for section in sections if section]


def _header(run: RunFolder, trials: Sequence[Trial], found: Front) -> Html:
    search = run.settings.get("search", {})
    device = run.settings.get("device", "this machine")
    device = device.get("name", "this machine") if isinstance(device, Mapping) else device
    facts = {
        "Run": run.path.name,
        "Device": device,
        "Budget": search.get("budget"),
        "Limits": _limits(search.get("limits")),
        "Trials": sum(trial.state != "running" for trial in trials),
        **{state.capitalize(): count for state, count in _states(trials).items() if state != "complete"},
    }
    items = [element("li", f"{key} ", element("b", value)) for key, value in facts.items() if value is not None]
    return element(
        "header",
        element("div", "vlmfront · Pareto report", class_="eyebrow"),
        element("h1", _task_name(run)),
        element("p", _lead(trials, found), class_="lead"),
        element("ul", *items, class_="facts"),
    )


def _model_order(run: RunFolder, found: Front) -> dict[str, str]:
    knobs = run.settings.get("space", {}).get("knobs", {})
    listed = knobs.get("model.path", ()) if isinstance(knobs, Mapping) else ()
    return model_order([*found.trials, *found.dominated], [str(path) for path in listed])


def _limits(limits: Any) -> str | None:
    """The limits of a search, such as ``memory_peak_mb max 220``; none without any."""
    if not isinstance(limits, Mapping) or not limits:
        return None
    return ", ".join(
        f"{name} {side} {bound}" for name, bounds in limits.items() for side, bound in dict(bounds).items()
    )


def _lead(trials: Sequence[Trial], found: Front) -> str:
    if not found.members:
        return f"No configuration has been measured in full yet; {len(trials)} trials have begun."
    n, k = len(found.members), len(found.members) + len(found.dominated)
    across, up = chart_axes(found)
    best, last = found.members[0].trial, found.members[-1].trial
    text = f"{n} of {k} measured configurations {'is' if n == 1 else 'are'} on the front"
    span = f"{up.label.lower()} {_value(best, up)} at {_value(best, across)}"
    if n == 1:
        return f"{text}: {span}."
    return f"{text}: from {span} to {_value(last, up)} at {_value(last, across)}."


def _tiles(trials: Sequence[Trial], found: Front) -> Html | None:
    if not found.members:
        return None
    complete = len(found.members) + len(found.dominated)
    tiles = [_tile("On the front", str(len(found.members)), f"of {complete} complete trials")]
    for objective in found.objectives:
        best = min(found.trials, key=lambda trial: (as_values([trial], [objective])[0, 0], trial.number))
        name = {"accuracy": "Best accuracy", "latency_p50_ms": "Fastest"}.get(objective.name, f"Best {objective.label}")
        others = [other for other in found.objectives if other != objective]
        more = f"trial {best.number}" + "".join(f", {_value(best, other)}" for other in others)
        tiles.append(_tile(name, number(figure_of(best, objective.name).value, objective), more, objective.unit))
    middle = found.trials[pareto.knee(as_values(found.trials, found.objectives))]
    tiles.append(
        _tile("Knee of the front", f"Trial {middle.number}", ", ".join(_value(middle, o) for o in found.objectives))
    )
    used = time_used(trials)
    if used:
        totals = stage_totals(trials)
        saved = sum(total.saved for total in totals)
        tiles.append(_tile("Time used", duration(used), f"{duration(saved)} saved by reuse"))
    return element("div", *tiles, class_="tiles")


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


def _chart(trials: Sequence[Trial], found: Front, order: Mapping[str, str]) -> Html:
    if not found.members:
        waiting = element("p", "The front appears here once a trial is complete.", class_="empty")
        return card("The front", None, waiting)
    knee = found.trials[pareto.knee(as_values(found.trials, found.objectives))]
    known = [trial for trial in trials if trial.number in found.probabilities][:_MOST_DETAILS]
    panels = [tables.detail(trial, found, order, shown=trial is knee) for trial in known]
    floors = ", ".join(f"{o.label.lower()} {floor_in_words(found.floors[o.name], o)}" for o in found.objectives)
    note = (
        "Bars are 95 % intervals, pale points are trials off the front, the line is the border of what can be had. "
        f"Noise floor: {floors}."
    )
    chart = element(
        "div", element("div", id_="front-chart"), element("aside", *panels, class_="detail"), class_="split"
    )
    return card("The front", note, chart)


def _baselines(baselines: Sequence[Baseline], columns: Mapping[str, Sequence[str]]) -> Html:
    known = {line.name for line in baselines}
    absent = [shown.lower() for name, shown in NAMED_BASELINES.items() if name not in known]
    note = "What the task gives away without looking. A configuration must be well above it."
    if absent:
        note += f" Missing so far: {' and '.join(absent)}; a search works this out when it ends."
    return card("Baselines", note, *([tables.baselines_table(baselines, columns)] if baselines else []))


def _confusion(found: Front) -> Html | None:
    middle = found.trials[pareto.knee(as_values(found.trials, found.objectives))]
    if not middle.confusion:
        return None
    note = f"Trial {middle.number}, the knee of the front: rows are the right answers, columns the ones given."
    return card("What was taken for what", note, tables.confusion_table(middle.confusion))


def _time(trials: Sequence[Trial]) -> Html | None:
    totals = stage_totals(trials)
    if not totals:
        return None
    keys = join(
        element("span", element("span", element("i"), class_="bar"), "spent", class_="key"),
        element("span", element("span", element("i", class_="saved"), class_="bar"), "saved by reuse", class_="key"),
    )
    note = (
        "Wall time, summed over all trials and workers, so it may exceed the time used. Overhead is what building took "
        "beyond its stages: process start, imports, the artifact store, binding the bundle, a stage that failed. "
        "Not in here: baselines and the repeated measurements of the reference trial."
    )
    return card("Where the time went", join(note, element("br"), keys), time_table(totals))


def _failures(trials: Sequence[Trial]) -> Html | None:
    table = tables.failures_table(trials)
    note = "A trial that fails is a result too: the search learns from it and goes on."
    return card("Left out, and why", note, table) if table else None


def _all_trials(
    trials: Sequence[Trial],
    found: Front,
    order: Mapping[str, str],
    columns: Mapping[str, Sequence[str]],
    shared: Sequence[str],
) -> Html | None:
    if not trials:
        return None
    states = [element("option", "all states", value="")]
    states += [element("option", f"{state} ({count})", value=state) for state, count in _states(trials).items()]
    tools = element(
        "div",
        element(
            "input", id_="filter-text", type_="search", placeholder="Filter, such as int4 lora", aria_label="Filter"
        ),
        element("select", *states, id_="filter-state", aria_label="State"),
        class_="tools",
    )
    return card("All trials", None, tools, tables.trials_table(trials, found, order, columns, shared, states=True))


def _data(id_: str, value: Any) -> Html:
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return element("script", Html(text), id_=id_, type_="application/json")


def _states(trials: Sequence[Trial]) -> dict[str, int]:
    return dict(Counter(trial.state for trial in trials).most_common())


def _task_name(run: RunFolder) -> str:
    task = run.settings.get("task")
    return str(task.get("name") or run.name) if isinstance(task, Mapping) else run.name


def _value(trial: Trial, objective: Objective) -> str:
    return with_unit(figure_of(trial, objective.name).value, objective)
