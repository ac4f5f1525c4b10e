"""The front and a pick as tables for a terminal. Text from a run is shown as it is, never read as markup."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from objectives.records import Baseline
from objectives.registry import OBJECTIVES, Objective
from objectives.trial import Figure, Trial
from reports.front import Front
from reports.pick import Pick
from reports.words import (
    PREDICTED,
    describe,
    figure_of,
    figures_of,
    floor_in_words,
    halves,
    interval,
    is_predicted,
    model_names,
    model_path,
    number,
)

NOISY = 0.25
"""Noise floor, as a share, from which a front is called doubtful."""

_EXTRA = ("memory_peak_mb", "size_mb")


def front_table(found: Front) -> RenderableType:
    """The members' figures, then their configurations with accuracy by half, then the noise floor; fits 80 columns."""
    if not found.members:
        return Text("No trial is complete yet, so there is no front.")
    shown = [*found.objectives, *(found.known[name] for name in _EXTRA if found.known[name] not in found.objectives)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Trial", justify="right")
    for objective in shown:
        table.add_column(Text(f"{objective.label}\n{objective.unit}".rstrip()), justify="right", no_wrap=True)
    table.add_column("P(front)", justify="right")
    words = Table.grid(padding=(0, 2))
    names = model_names(model_path(trial.candidate) for trial in (*found.trials, *found.dominated))
    for member in found.members:
        trial = member.trial
        cells = [_cell(figure_of(trial, o.name), o, with_interval=o in found.objectives) for o in shown]
        table.add_row(Text(str(trial.number)), *cells, Text(f"{member.probability:.2f}"))
        words.add_row(Text(f"{trial.number:>5}"), _configuration(trial, names))
        if parts := halves(trial):
            words.add_row(Text(), Text(parts, style="dim"))
    floors = ", ".join(f"{o.label.lower()} {floor_in_words(found.floors[o.name], o)}" for o in found.objectives)
    count = len(found.members) + len(found.dominated)
    note = f"{len(found.members)} of {count} complete trials are on the front; noise floor: {floors}."
    told = [o.label for o in shown if any(is_predicted(trial, o) for trial in found.trials)]
    instead = (Text(f"{' and '.join(told)} are {PREDICTED}.", style="yellow"),) if told else ()
    return Group(table, words, Text(f"\n{note}", style="dim"), *instead, *doubts(found))


def doubts(found: Front) -> tuple[Text, ...]:
    """A warning where a noise floor is so high that the front says little; nothing where it is not."""
    noisy = [o.label.lower() for o in found.objectives if o.relative and found.floors.get(o.name, 0.0) > NOISY]
    if not noisy:
        return ()
    why = "other work ran on this machine; search again when it is quiet"
    return (Text(f"Values of {' and '.join(noisy)} could hardly be told apart: {why}.", style="yellow"),)


def blind(found: Front, baselines: Sequence[Baseline]) -> tuple[str, ...]:
    """A warning for each baseline that never looks at an image and is as accurate as anything on the front."""
    scored = [trial.figures["accuracy"].value for trial in found.trials if "accuracy" in trial.figures]
    best = max((value for value in scored if value is not None), default=None)
    return tuple(
        f"Nothing on the front is more accurate than a blind baseline ({one.accuracy.value:.3f}: {one.explained})"
        for one in baselines
        if best is not None and one.accuracy.value is not None and best <= one.accuracy.value
    )


def pick_text(picked: Pick) -> RenderableType:
    """The pick's figures, in the search and on holdout, and its explanation."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Figure")
    table.add_column("Search", justify="right")
    if picked.holdout is not None:
        table.add_column("Holdout", justify="right")
    for objective, figure in figures_of(picked.trial, picked.known):
        row = [Text(_heading(objective, picked.trial)), _cell(figure, objective, with_interval=True)]
        if picked.holdout is not None:
            after = picked.holdout.accuracy if objective.name == "accuracy" else None
            row.append(_cell(after, objective, with_interval=True) if after else Text(""))
        table.add_row(*row)
    for field, values in picked.trial.slices.items():
        for value, figure in values.items():
            row = [Text(f"  {field}: {value}"), _cell(figure, OBJECTIVES["accuracy"], with_interval=True)]
            if picked.holdout is not None:
                after = picked.holdout.slices.get(field, {}).get(value)
                row.append(_cell(after, OBJECTIVES["accuracy"], with_interval=True) if after else Text(""))
            table.add_row(*row)
    head = Text.assemble(("Trial ", "bold"), (str(picked.trial.number), "bold"), "  ", _configuration(picked.trial))
    return Group(head, table, Padding(Text(picked.explanation), (0, 0, 1, 0)))


def _heading(objective: Objective, trial: Trial) -> str:
    words = f"{objective.label} ({objective.unit})" if objective.unit else objective.label
    return f"{words}, {PREDICTED}" if is_predicted(trial, objective) else words


def _cell(figure: Figure, objective: Objective, *, with_interval: bool) -> Text:
    text = Text(number(figure.value, objective))
    around = interval(figure, objective) if with_interval else ""
    return text.append(f" {around}", style="dim") if around else text


def _configuration(trial: Trial, names: Mapping[str, str] | None = None) -> Text:
    model, *rest = describe(trial.candidate, names)
    return Text(model, style="bold").append(f" {' · '.join(rest)}" if rest else "", style="not bold")
