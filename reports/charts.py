"""The chart of the front as plain Plotly JSON; colours name the page's CSS variables (``var:ink``)."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from objectives.records import Baseline
from objectives.registry import OBJECTIVES, Objective
from objectives.trial import Trial
from reports.front import Front
from reports.words import figure_of, halves, interval, model_names, model_path, with_unit

COLOURS = 6
LOG_FROM = 8.0
"""From this ratio of largest to smallest on, a measured axis is logarithmic."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star")
NAMED_BASELINES = {"commonest_answer": "Always the commonest answer", "blank_image": "Best model, blank image"}


def chart_axes(found: Front) -> tuple[Objective, Objective]:
    """What is drawn across and up: the first two objectives, the first one upwards."""
    up = found.objectives[0]
    spare = OBJECTIVES["size_mb" if up.name == "latency_p50_ms" else "latency_p50_ms"]
    return (found.objectives[1] if len(found.objectives) > 1 else spare), up


def model_order(trials: Sequence[Trial], listed: Sequence[str] = ()) -> dict[str, str]:
    """The models' paths and names in the order of their colours: as ``listed``, then others by their largest bundle."""
    largest: dict[str, float] = {}
    for trial in trials:
        path = model_path(trial.candidate)
        largest[path] = max(largest.get(path, 0.0), figure_of(trial, "size_mb").value or 0.0)
    return model_names([*listed, *sorted(largest.keys() - set(listed), key=lambda path: (largest[path], path))])


def front_chart(found: Front, baselines: Sequence[Baseline], order: Mapping[str, str]) -> dict[str, Any]:
    """The scatter of all complete trials, the front as a step line; ``customdata`` of a point is its trial number."""
    across, up = chart_axes(found)
    members = found.trials
    drawable = [t for t in (*members, *found.dominated) if None not in (_at(t, across), _at(t, up))]
    spread = [value for trial in drawable if (value := _at(trial, across)) is not None]
    logarithmic = across.relative and bool(spread) and max(spread) / min(spread) >= LOG_FROM
    data = [_step(members, across, up)]
    for index, (path, name) in enumerate(order.items()):
        of_model = [trial for trial in drawable if model_path(trial.candidate) == path]
        data.append(_points([t for t in of_model if t not in members], name, index, across, up, member=False))
        data.append(_points([t for t in of_model if t in members], name, index, across, up, member=True))
        data[-2]["showlegend"] = not data[-1]["x"]
    shown = [trace for trace in data if trace["x"]]
    layout = {
        "xaxis": _axis(across, "log" if logarithmic else "linear"),
        "yaxis": _axis(up, "linear"),
        "shapes": [],
        "annotations": [],
    }
    if up.name == "accuracy":
        for line in baselines:
            _add_baseline(layout, line)
    return {"data": shown, "layout": layout}


def _points(
    trials: Sequence[Trial], name: str, index: int, across: Objective, up: Objective, *, member: bool
) -> dict[str, Any]:
    colour = f"var:m{index % COLOURS}"
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text" if member else "markers",
        "name": html.escape(name),
        "legendgroup": html.escape(name),
        "showlegend": member,
        "x": [_at(trial, across) for trial in trials],
        "y": [_at(trial, up) for trial in trials],
        "customdata": [trial.number for trial in trials],
        "hovertext": [_hover(trial, name, across, up) for trial in trials],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "color": colour,
            "symbol": _SYMBOLS[index % len(_SYMBOLS)],
            "size": 11 if member else 7,
            "opacity": 1.0 if member else 0.42,
            "line": {"width": 1.5 if member else 0, "color": "var:card"},
        },
    }
    if member:
        trace |= {
            "text": [str(trial.number) for trial in trials],
            "textposition": "top left",
            "textfont": {"size": 11, "color": "var:muted"},
            "error_x": _bars(trials, across, colour),
            "error_y": _bars(trials, up, colour),
        }
    return trace


def _bars(trials: Sequence[Trial], objective: Objective, colour: str) -> dict[str, Any]:
    above, below = [], []
    for trial in trials:
        figure = figure_of(trial, objective.name)
        known = figure.value is not None and figure.low is not None and figure.high is not None
        above.append((figure.high or 0.0) - (figure.value or 0.0) if known else 0.0)
        below.append((figure.value or 0.0) - (figure.low or 0.0) if known else 0.0)
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return bars | {"color": colour, "thickness": 1.2, "width": 0}


def _step(members: Sequence[Trial], across: Objective, up: Objective) -> dict[str, Any]:
    """The border of what is within reach: from each member straight on to where the next one takes over."""
    points = sorted((x, y) for t in members if (x := _at(t, across)) is not None and (y := _at(t, up)) is not None)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"shape": "hv" if across.direction == "min" else "vh", "width": 2, "color": "var:ink"},
        "opacity": 0.55,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _hover(trial: Trial, name: str, across: Objective, up: Objective) -> str:
    head = [f"<b>Trial {trial.number} · {html.escape(name)}</b>"]
    for objective in (up, across):
        figure = figure_of(trial, objective.name)
        head.append(f"{objective.label} <b>{with_unit(figure.value, objective)}</b> {interval(figure, objective)}")
    if parts := halves(trial):
        head.append(html.escape(parts))
    knobs = [f"{html.escape(knob)} = {html.escape(str(value))}" for knob, value in trial.candidate.items()]
    return "<br>".join([*head, "", *knobs])


def _add_baseline(layout: dict[str, Any], baseline: Baseline) -> None:
    value = baseline.accuracy.value
    if value is None:
        return
    line = {"color": "var:muted", "width": 1.2, "dash": "dot"}
    layout["shapes"].append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line})
    layout["annotations"].append(
        {
            "xref": "paper",
            "x": 1,
            "y": value,
            "xanchor": "right",
            "yanchor": "bottom",
            "showarrow": False,
            "text": f"{html.escape(baseline_name(baseline))} · {value:.3f}",
            "font": {"size": 11, "color": "var:muted"},
        }
    )


def baseline_name(baseline: Baseline) -> str:
    """What a reader calls a baseline."""
    return NAMED_BASELINES.get(baseline.name, baseline.name.replace("_", " "))


def _axis(objective: Objective, scale: str) -> dict[str, Any]:
    unit = f" ({objective.unit}{', log scale' if scale == 'log' else ''})" if objective.unit else ""
    axis: dict[str, Any] = {"title": {"text": f"{objective.label}{unit}"}, "type": scale}
    if scale == "log":
        ticks = [step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5)]
        axis |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return axis


def _at(trial: Trial, objective: Objective) -> float | None:
    value = figure_of(trial, objective.name).value
    return None if value is None or (objective.relative and value <= 0) else value
