"""The report of a run: one HTML file that needs nothing else, opens from disk, and loads nothing from anywhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from hardware_profiles.store import write_atomic
from objectives import pareto
from objectives.devices import devices_of, seen_from
from objectives.folders import DISK_FAILS, refuse_read_only
from objectives.records import Baseline
from objectives.run import RunFolder
from objectives.trial import Trial
from reports import tables
from reports.charts import NAMED_BASELINES, front_chart, model_order
from reports.devices import devices_section
from reports.front import Front, as_values, front_of
from reports.markup import Html, card, element, join
from reports.method import method
from reports.sections import Section, available, rendered
from reports.stages import stage_totals, time_table
from reports.summary import header, states, task_name, tiles
from reports.words import MOST_PARTS, floor_in_words, state_name
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
    names = devices_of(run.settings)
    seen = {name: [seen_from(trial, name) for trial in trials] for name in names}
    fronts = {name: front_of(run, trials, name) for name in names}
    assets = files("reports") / "assets"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{task_name(run)} · vlmfront report"),
        element("style", Html((assets / "report.css").read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        element("main", *_sections(run, trials, seen, fronts), *(rendered(one, run) for one in extra)),
        element("script", Html(get_plotlyjs())),
        element("script", Html((assets / "report.js").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _sections(
    run: RunFolder, trials: Sequence[Trial], seen: Mapping[str, Sequence[Trial]], fronts: Mapping[str, Front]
) -> list[Html]:
    """The page from top to bottom: what is one device's own stands in a panel of it, which tabs choose between."""
    baselines, uses = run.read_baselines(), run.holdout_uses()
    views = [_View(run, name, seen[name], found, baselines) for name, found in fronts.items()]
    first = next(iter(fronts.values()))
    sections: list[Html | None] = [
        header(run, trials, fronts),
        _tabs(tuple(fronts)),
        *(_panel(place, view.name, view.upper(place)) for place, view in enumerate(views)),
    ]
    if baselines or any(found.members for found in fronts.values()):
        sections.append(_baselines(baselines, views[0].columns))
    sections += [
        devices_section(run, trials),
        _time(trials),
        _failures(trials, seen),
        *(_panel(place, view.name, [view.all_trials()]) for place, view in enumerate(views) if trials),
        method(run, trials, first, uses),
    ]
    return [section for section in sections if section]


def _tabs(names: Sequence[str]) -> Html | None:
    if len(names) < 2:
        return None
    buttons = [
        element("button", name, type_="button", role="tab", data_tab=name, aria_selected="false" if place else "true")
        for place, name in enumerate(names)
    ]
    return element("nav", *buttons, class_="tabs", role="tablist", aria_label="Device")


def _panel(place: int, name: str, content: Sequence[Html]) -> Html:
    return element("div", *content, class_="device", data_device=name, hidden=place > 0)


class _View:
    """One device's own part of the page."""

    def __init__(
        self, run: RunFolder, name: str, trials: Sequence[Trial], found: Front, baselines: Sequence[Baseline]
    ) -> None:
        self.name = name
        self._trials = trials
        self._found = found
        self._baselines = baselines
        self._order = _model_order(run, found)
        complete = [*found.trials, *found.dominated]
        fields = tables.slice_fields(complete)
        self.columns = {field: values for field, values in fields.items() if len(values) <= MOST_PARTS}
        self._wide = {field: values for field, values in fields.items() if field not in self.columns}
        self._shared = tables.shared_labels(complete)

    def upper(self, place: int) -> list[Html]:
        """Tiles, chart, and the tables of the front's members."""
        found, order = self._found, self._order
        common = f" Holds for every trial: {'; '.join(self._shared)}." if self._shared else ""
        chart = front_chart(found, self._baselines, order) if found.members else None
        sections = [tiles(self._trials, found), _chart(self._trials, found, order), _data(place, chart)]
        if found.members:
            sections.append(
                card(
                    "On the front",
                    f"Members differ from one another beyond the noise floor. Choose a row to see it in the chart."
                    f"{common}",
                    tables.trials_table(found.trials, found, order, self.columns, self._shared, states=False),
                )
            )
            for field, values in self._wide.items():
                note = "Front members only. Point at a cell for its 95 % interval and number of items."
                table = tables.slice_table(field, values, found.trials, order)
                sections.append(card(f"Accuracy by {field}", note, table))
            sections.append(_confusion(found))
        return [section for section in sections if section]

    def all_trials(self) -> Html:
        """Every trial, with a filter."""
        options = [element("option", "all states", value="")]
        options += [
            element("option", f"{state_name(state)} ({count})", value=state)
            for state, count in states(self._trials).items()
        ]
        tools = element(
            "div",
            element(
                "input",
                class_="filter-text",
                type_="search",
                placeholder="Filter, such as int4 lora",
                aria_label="Filter",
            ),
            element("select", *options, class_="filter-state", aria_label="State"),
            class_="tools",
        )
        table = tables.trials_table(self._trials, self._found, self._order, self.columns, self._shared, states=True)
        return card("All trials", None, tools, table)


def _model_order(run: RunFolder, found: Front) -> dict[str, str]:
    knobs = run.settings.get("space", {}).get("knobs", {})
    listed = knobs.get("model.path", ()) if isinstance(knobs, Mapping) else ()
    return model_order([*found.trials, *found.dominated], [str(path) for path in listed])


def _chart(trials: Sequence[Trial], found: Front, order: Mapping[str, str]) -> Html:
    if not found.members:
        waiting = element("p", "The front appears here once a trial is complete.", class_="empty")
        return card("The front", None, waiting)
    knee = found.trials[pareto.knee(as_values(found.trials, found.objectives))]
    known = [trial for trial in trials if trial.number in found.probabilities][:_MOST_DETAILS]
    panels = [tables.detail(trial, found, order, shown=trial.number == knee.number) for trial in known]
    floors = ", ".join(f"{o.label.lower()} {floor_in_words(found.floors[o.name], o)}" for o in found.objectives)
    note = (
        "Bars are 95 % intervals, pale points are trials off the front, the line is the border of what can be had. "
        f"Noise floor: {floors}."
    )
    chart = element(
        "div", element("div", class_="front-chart"), element("aside", *panels, class_="detail"), class_="split"
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
        "Wall time, summed over all trials and workers, so it may exceed the time in trials. Overhead is what building "
        "took beyond its stages: process start, imports, the artifact store, binding the bundle, a stage that failed. "
        "Not in here: baselines and the repeated measurements of the reference trial."
    )
    return card("Where the time went", join(note, element("br"), keys), time_table(totals))


def _failures(trials: Sequence[Trial], seen: Mapping[str, Sequence[Trial]]) -> Html | None:
    """Why trials are on no front, and with several devices why those that are elsewhere are not on one's."""
    left = list(trials)
    for name, views in seen.items() if len(seen) > 1 else ():
        for trial, view in zip(trials, views, strict=True):
            if view.state != trial.state:
                why = "; ".join(view.violated) if view.state == "infeasible" else view.reason
                left.append(replace(view, reason=f"on {name}: {why}", violated=()))
    table = tables.failures_table(left)
    note = "A trial that fails is a result too: the search learns from it and goes on."
    return card("Left out, and why", note, table) if table else None


def _data(place: int, chart: Any) -> Html:
    text = json.dumps(chart, allow_nan=False).replace("<", "\\u003c")
    name = f"front-data-{place}" if place else "front-data"
    return element("script", Html(text), id_=name, class_="front-data", type_="application/json")
