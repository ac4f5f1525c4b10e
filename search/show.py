"""What the person at the terminal sees of a search and of a pick: progress, the front, the costs, the paths."""

import json
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hardware_profiles.store import write_atomic
from objectives.folders import refuse_read_only
from objectives.registry import described
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import floors_of, front_as_dict, front_of, objectives_of, scores_of
from reports.html import write_report
from reports.pick import Limit, pick, pick_as_dict, with_holdout
from reports.sections import available
from reports.text import blind, front_table, pick_text
from reports.words import describe, figure_of, halves
from search.engine import Outcome
from search.session import Prepared, add_blank_image, score_on_holdout, search
from spaces.errors import BadInput

_ENDED = {
    "budget": "The budget is spent",
    "exhausted": "Every candidate of the space was tried",
}


_STATES = {"pruned": "raced out"}
_BUSY = 0.5
"""Load to a core from which measurements suffer."""


def busy() -> tuple[str, ...]:
    """A warning where other work takes a good part of this machine; nothing where it does not."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < _BUSY * cores:
        return ()
    return (
        f"This machine is busy (load {load:.1f} on {cores} cores): latencies will scatter, and the front with them.",
    )


def run_search(prepared: Prepared, *, as_json: bool) -> int:
    """Search with live progress, then write baselines and report and print what was found; the exit code."""
    console = Console(stderr=as_json)
    run = prepared.run
    for note in (*prepared.notes, *busy()):
        console.print(note, highlight=False, markup=False)
    available()  # a section that is broken is refused before the search, not by the report after it
    outcome = _search(prepared, console)
    if outcome.ended == "interrupted":
        budget = ["--budget", str(prepared.config.budget).replace(" ", "")]
        file = run.settings["search"]["file"]
        again = shlex.join(["vlmfront", "search", file, "--run", str(run.path), *budget, "--resume"])
        console.print(
            f"Interrupted; {outcome.told} trials are kept. Go on with:\n  {again}", soft_wrap=True, markup=False
        )
        if as_json:
            print(json.dumps(summarise(run, outcome) | {"run": str(run.path)}))
        return 130
    if not any(trial.state in ("complete", "infeasible") for trial in run.read_trials()):
        console.print("[red]No trial could be finished:[/red] " + escape("; ".join(sorted(_reasons(run)))[:500]))
        return 1
    with console.status("Asking the best model about a blank image"):
        add_blank_image(prepared)
    report = write_report(run)
    summary = summarise(run, outcome)
    if as_json:
        print(json.dumps(summary | {"run": str(run.path), "report": str(report)}))
        return 0
    trials = [trimmed(trial, run.settings) for trial in run.read_trials()]
    found = front_of(run, trials)
    console.print(front_table(found))
    _print_stages(console, summary["stages"])
    states = ", ".join(f"{count} {_STATES.get(state, state)}" for state, count in summary["states"].items())
    console.print(
        f"{_ENDED[outcome.ended]} after {outcome.seconds:.0f} s; the run has {outcome.told} trials: {states}."
    )
    for doubt in blind(found, run.read_baselines()):
        console.print(doubt, style="yellow", highlight=False)
    console.print(f"Run     {run.path}\nReport  {report}", soft_wrap=True, markup=False, highlight=False)
    return 0


def summarise(run: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain JSON values: how it ended, the front, states, and how often each stage ran or was reused."""
    trials = run.read_trials()
    built, reused = Counter[str](), Counter[str]()
    seconds: defaultdict[str, float] = defaultdict(float)
    for trial in trials:
        for stage in trial.stages:
            (reused if stage.reused else built)[stage.name] += 1
            seconds[stage.name] += 0.0 if stage.reused else stage.seconds
    found = front_of(run, trials)
    return {
        "ended": outcome.ended,
        "seconds": outcome.seconds,
        "trials": len(trials),
        "states": dict(Counter(trial.state for trial in trials)),
        "stages": {
            name: {"built": built[name], "reused": reused[name], "seconds": round(seconds[name], 2)}
            for name in dict.fromkeys([*built, *reused])
        },
        "front": front_as_dict(found),
    }


def pick_and_rescore(
    path: Path, least: Mapping[str, float], most: Mapping[str, float], prefer: str, *, as_json: bool
) -> None:
    """Pick a trial, score it on the holdout split, keep the outcome as ``pick.json`` and print it.

    Raises:
        BadInput: nothing fits the limits, or the run or its holdout split cannot be read.
    """
    run = RunFolder.open(path)
    try:
        refuse_read_only(path)
    except OSError as error:
        raise BadInput(f"{path}: uses of the holdout split are put on record there ({error.strerror}).") from None
    limits: dict[str, Limit] = {name: (">=", value) for name, value in least.items()}
    limits |= {name: ("<=", value) for name, value in most.items()}
    known = described(run.settings)
    picked = pick(run.read_trials(), limits, prefer, objectives_of(run.settings), floors_of(run), scores_of(run), known)
    number = picked.trial.number
    check = score_on_holdout(run, number, f"pick --prefer {prefer}")
    picked = with_holdout(picked, check)
    found = pick_as_dict(picked) | {"run": str(path), "bundle": str(run.bundle(number))}
    write_atomic(path / "pick.json", json.dumps(found, indent=1))
    if as_json:
        print(json.dumps(found))
        return
    console = Console()
    console.print(pick_text(picked))
    console.print(f"Next: vlmfront export {shlex.quote(str(path))} {number} OUT", soft_wrap=True, markup=False)


def _search(prepared: Prepared, console: Console) -> Outcome:
    budget = prepared.config.budget
    stop = Event()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console.print("[dim]trial  accuracy  latency p50  configuration[/dim]", highlight=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        done = len(prepared.run.read_trials())
        bar = progress.add_task(f"{done} trials", total=budget.trials, completed=done if budget.trials else 0)

        def on_trial(trial: Trial) -> None:
            nonlocal done
            done += 1
            progress.update(bar, description=f"{done} trials", completed=done if budget.trials else 0)
            line = trial_line(trimmed(trial, prepared.run.settings))
            cut = progress.console.is_terminal
            progress.console.print(line, highlight=False, no_wrap=cut, overflow="ellipsis", soft_wrap=not cut)

        return search(prepared, stop, on_trial)


def trimmed(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """The trial with only the model and the knobs that vary in the space, so that its description is short."""
    knobs = settings["space"]["knobs"]
    varied = {name for name, values in knobs.items() if isinstance(values, dict) or len(values) > 1} | {"model.path"}
    return replace(trial, candidate={name: value for name, value in trial.candidate.items() if name in varied})


def trial_line(trial: Trial) -> str:
    """One finished trial in one line: number, accuracy, latency, configuration, or why it failed."""
    words = escape(" · ".join(describe(trial.candidate)))
    apart = f"  [dim]{escape(halves(trial))}[/dim]" if halves(trial) else ""
    if trial.state == "failed":
        return f"[dim]{trial.number:>5}[/dim]  [red]failed[/red]  {words}: {escape(trial.reason)}".replace("\n", " ")
    if trial.state == "pruned":
        reached = figure_of(trial, "accuracy")
        why = f"accuracy {reached.value or 0:.3f} after {reached.n} items, {trial.reason}"
        return f"[dim]{trial.number:>5}  raced out[/dim]  {words}: [dim]{escape(why)}[/dim]"
    accuracy, latency = figure_of(trial, "accuracy").value, figure_of(trial, "latency_p50_ms").value
    shown = f"{accuracy:.3f}" if accuracy is not None else "–"
    speed = f"{latency:.2f} ms" if latency is not None else "–"
    missed = f"  [yellow]{escape(trial.violated[0])}[/yellow]" if trial.violated else ""
    return f"[dim]{trial.number:>5}[/dim]  {shown:>8}  {speed:>11}  {words}{apart}{missed}"


def _print_stages(console: Console, stages: Mapping[str, Mapping[str, Any]]) -> None:
    for name, counts in stages.items():
        console.print(
            f"  {name:<14} built {counts['built']:>3}, reused {counts['reused']:>3}, {counts['seconds']:.1f} s",
            highlight=False,
        )


def _reasons(run: RunFolder) -> set[str]:
    return {trial.reason for trial in run.read_trials() if trial.reason}
