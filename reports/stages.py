"""Where the time of a run went: what each stage cost, and what its reuse spared."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from objectives.trial import Trial
from reports.markup import Html, element, head, table
from reports.words import duration

_STAGES = ("model", "pruning", "tuning", "runtime", "visual_tokens", "quantization", "prompt")
_PHASES = (("score", "scoring"), ("measure", "measuring"), ("reference", "unmodified models"), ("wait", "waiting"))


@dataclass(frozen=True, kw_only=True)
class StageTotal:
    """What one stage cost over a run. ``saved``: seconds that its reuse spared."""

    name: str
    built: int
    reused: int
    spent: float
    saved: float


def stage_totals(trials: Sequence[Trial]) -> tuple[StageTotal, ...]:
    """Cost by stage in the order in which they run; then overhead, scoring, measuring and waiting.

    Overhead is what building took beyond the stages built: process start, imports, the store, binding, a failed stage.
    """
    built: defaultdict[str, list[float]] = defaultdict(list)
    reused: defaultdict[str, list[float]] = defaultdict(list)
    names: dict[str, None] = {}
    for trial in trials:
        for stage in trial.stages:
            names[stage.name] = None
            (reused if stage.reused else built)[stage.name].append(stage.seconds)
    in_order = sorted(names, key=lambda name: _STAGES.index(name) if name in _STAGES else len(_STAGES))
    totals = [_total(name, built[name], reused[name]) for name in in_order]
    overhead = [rest for trial in trials if (rest := _overhead(trial)) > 0]
    totals += [_total("overhead", overhead, [])] if overhead else []
    for phase, name in _PHASES:
        spent = [trial.seconds[phase] for trial in trials if trial.seconds.get(phase)]
        if spent:
            totals.append(_total(name, spent, []))
    return tuple(totals)


def time_table(totals: Sequence[StageTotal]) -> Html:
    """One row a stage: how often it ran and was reused, and a bar of seconds spent and saved."""
    longest = max((total.spent + total.saved for total in totals), default=0.0) or 1.0
    heads = [
        head("Stage", num=False),
        head("Ran"),
        head("Reused"),
        element("th", "Time"),
        head("Spent"),
        head("Saved"),
    ]
    rows = []
    for total in totals:
        spent, saved = (f"width:{100 * seconds / longest:.2f}%" for seconds in (total.spent, total.saved))
        bar = element("div", element("i", style=spent), element("i", class_="saved", style=saved), class_="bar")
        rows.append(
            element(
                "tr",
                element("td", total.name.replace("_", " ")),
                element("td", total.built, class_="num", data_v=total.built),
                element("td", total.reused or "–", class_="num", data_v=total.reused),
                element("td", bar, class_="grow"),
                element("td", duration(total.spent), class_="num", data_v=total.spent),
                element("td", duration(total.saved) if total.saved else "–", class_="num", data_v=total.saved),
            )
        )
    return table(heads, rows, "sortable")


def _overhead(trial: Trial) -> float:
    return trial.seconds.get("build", 0.0) - sum(stage.seconds for stage in trial.stages if not stage.reused)


def _total(name: str, built: Sequence[float], reused: Sequence[float]) -> StageTotal:
    return StageTotal(name=name, built=len(built), reused=len(reused), spent=sum(built), saved=sum(reused))
