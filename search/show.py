"""What the person at the terminal sees of a search and of a pick: progress, the front, the costs, the paths."""

import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hardware_profiles.store import write_atomic
from objectives.devices import devices_of, seen_from
from objectives.folders import refuse_read_only
from objectives.records import DeviceEvent
from objectives.registry import described
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import floors_of, front_as_dict, front_of, objectives_of, scores_of
from reports.html import write_report
from reports.pick import Limit, pick, pick_as_dict, with_holdout
from reports.sections import available
from reports.text import blind, front_table, pick_text
from reports.words import plural, state_name
from search.afterwards import add_blank_image, score_on_holdout
from search.engine import Outcome
from search.fleet import AllLost
from search.lines import (
    caught_up_line,
    device_line,
    event_line,
    left_line,
    trial_heading,
    trial_line,
    trimmed,
    waiting_line,
    waits_words,
)
from search.session import Prepared, search
from spaces.errors import BadInput
from spaces.reader import refuse_unknown

_ENDED = {
    "budget": "The budget is spent",
    "exhausted": "Every candidate of the space was tried",
}


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
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    try:
        available()  # a section that is broken is refused before the search, not by the report after it
        outcome = _search(prepared, console)
    except AllLost as error:
        print(f"vlmfront: {error}; everything finished is kept. Go on with: {_again(prepared)}", file=sys.stderr)
        return 1
    finally:
        prepared.close()
    if outcome.ended == "interrupted":
        console.print(
            f"Interrupted; {plural(outcome.told, 'finished trial')} kept. Go on with:\n  {_again(prepared)}",
            soft_wrap=True,
            markup=False,
        )
        if as_json:
            print(json.dumps(summarise(run, outcome) | {"run": str(run.path)}))
        return 130
    if not any(trial.state in ("complete", "infeasible") for trial in run.read_trials()):
        console.print("[red]No trial could be finished:[/red] " + escape("; ".join(sorted(_reasons(run)))[:500]))
        return 1
    with console.status("Asking the best model about a blank image"):
        add_blank_image(run, prepared.task, prepared.items)
    report = write_report(run)
    summary = summarise(run, outcome)
    if as_json:
        print(json.dumps(summary | {"run": str(run.path), "report": str(report)}))
        return 0
    trials = [trimmed(trial, run.settings) for trial in run.read_trials()]
    names = devices_of(run.settings)
    fronts = {name: front_of(run, trials, name) for name in names}
    for name, found in fronts.items():
        if len(names) > 1:
            console.print(f"\nOn {name}", style="bold", markup=False, highlight=False)
        console.print(front_table(found))
    _print_stages(console, summary["stages"])
    states = ", ".join(f"{count} {state_name(state)}" for state, count in summary["states"].items())
    console.print(
        f"{_ENDED[outcome.ended]} after {outcome.seconds:.0f} s; the run has {plural(outcome.told, 'trial')}: {states}."
    )
    for doubt in dict.fromkeys(doubt for found in fronts.values() for doubt in blind(found, run.read_baselines())):
        console.print(doubt, style="yellow", highlight=False)
    for name, waits in waiting(trials).items():
        left = f"{waits_words(name, waits)}; --resume measures them once it is back."
        console.print(left, style="yellow", highlight=False, markup=False)
    console.print(f"Run     {run.path}\nReport  {report}", soft_wrap=True, markup=False, highlight=False)
    return 0


def waiting(trials: Sequence[Trial]) -> Counter[str]:
    """How many trials each device has still to measure."""
    return Counter(name for trial in trials for name in trial.waits_for)


def _again(prepared: Prepared) -> str:
    """The command that goes on with a search that was stopped."""
    run = prepared.run
    budget = ["--budget", str(prepared.config.budget).replace(" ", "")]
    return shlex.join(
        ["vlmfront", "search", run.settings["search"]["file"], "--run", str(run.path), *budget, "--resume"]
    )


def summarise(run: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain JSON values: how it ended, states, how often each stage ran or was reused, and the fronts.

    ``front`` is that of the first device, ``fronts`` has each device's; ``waiting`` says how many trials each has still
    to measure.
    """
    trials = run.read_trials()
    built, reused = Counter[str](), Counter[str]()
    seconds: defaultdict[str, float] = defaultdict(float)
    for trial in trials:
        for stage in trial.stages:
            (reused if stage.reused else built)[stage.name] += 1
            seconds[stage.name] += 0.0 if stage.reused else stage.seconds
    fronts = {name: front_as_dict(front_of(run, trials, name)) for name in devices_of(run.settings)}
    first = next(iter(fronts.values()))
    return {
        "ended": outcome.ended,
        "seconds": outcome.seconds,
        "trials": len(trials),
        "states": dict(Counter(trial.state for trial in trials)),
        "stages": {
            name: {"built": built[name], "reused": reused[name], "seconds": round(seconds[name], 2)}
            for name in dict.fromkeys([*built, *reused])
        },
        "front": first,
        "fronts": fronts,
        "waiting": dict(waiting(trials)),
    }


def pick_and_rescore(
    path: Path, least: Mapping[str, float], most: Mapping[str, float], prefer: str, device: str | None, *, as_json: bool
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
    name = chosen_device(run, device)
    trials = [seen_from(trial, name) for trial in run.read_trials()]
    floors, scores, known = floors_of(run, name), scores_of(run, name), described(run.settings)
    picked = pick(trials, limits, prefer, objectives_of(run.settings, name), floors, scores, known)
    number = picked.trial.number
    several = f" --device {name}" if device else ""
    check = score_on_holdout(run, number, f"pick --prefer {prefer}{several}", name)
    picked = with_holdout(picked, check)
    found = pick_as_dict(picked) | {"device": name, "run": str(path), "bundle": str(run.bundle(number))}
    write_atomic(path / "pick.json", json.dumps(found, indent=1))
    if as_json:
        print(json.dumps(found))
        return
    console = Console()
    console.print(pick_text(picked))
    console.print(f"Next: vlmfront export {shlex.quote(str(path))} {number} OUT", soft_wrap=True, markup=False)


def chosen_device(run: RunFolder, device: str | None) -> str:
    """The device whose front is picked from: the one named, or the run's only one.

    Raises:
        BadInput: the run has several and none is named, or not this one.
    """
    names = devices_of(run.settings)
    if device is None:
        if len(names) > 1:
            raise BadInput(f"{run.path}: each device has its own front; name one with --device: {', '.join(names)}.")
        return names[0]
    refuse_unknown({device: None}, names, "--device")
    return device


def _search(prepared: Prepared, console: Console) -> Outcome:
    budget = prepared.config.budget
    for name, record in prepared.run.settings["devices"].items():
        console.print(device_line(name, record), highlight=False, markup=False, style="dim", soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    before = _left(prepared.run)
    for name, numbers in before.items():
        line = left_line(name, len(numbers), there=name in prepared.fleet.devices)
        console.print(line, highlight=False, markup=False, style="dim", soft_wrap=True)
    heading = trial_heading(devices_of(prepared.run.settings))
    console.print(heading, highlight=False, markup=False, style="dim", soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        done = len(prepared.run.read_trials())
        bars: dict[str, TaskID] = {}
        bar = progress.add_task(plural(done, "trial"), total=budget.trials, completed=done if budget.trials else 0)

        def on_trial(trial: Trial) -> None:
            nonlocal done
            done += 1
            progress.update(bar, description=plural(done, "trial"), completed=done if budget.trials else 0)
            line = trial_line(trimmed(trial, prepared.run.settings))
            cut = progress.console.is_terminal
            progress.console.print(
                line, highlight=False, no_wrap=True, overflow="ellipsis" if cut else "ignore", crop=cut
            )

        def on_finalist(device: str, done: int, of: int) -> None:
            if device not in bars:  # the trials' own is at its end, and would not move any more
                bars[device] = progress.add_task("", total=of)
            progress.update(bars[device], description=f"finalists on {device}: {done} of {of}", completed=done)

        def on_event(event: DeviceEvent) -> None:
            progress.console.print(event_line(event), highlight=False, markup=False, soft_wrap=True)

        def says(device: str, why: str) -> None:
            progress.console.print(
                waiting_line(device, why), highlight=False, markup=False, style="dim", soft_wrap=True
            )

        prepared.fleet.heard.append(on_event)
        prepared.fleet.says = says
        outcome = search(prepared, on_trial, on_finalist)
    after = _left(prepared.run)
    for name, numbers in before.items():
        line = caught_up_line(name, len(numbers - after.get(name, set())), len(numbers))
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return outcome


def _left(run: RunFolder) -> dict[str, set[int]]:
    """The trials that each device has still to measure."""
    left: defaultdict[str, set[int]] = defaultdict(set)
    for trial in run.read_trials():
        for name in trial.waits_for:
            left[name].add(trial.number)
    return left


def _print_stages(console: Console, stages: Mapping[str, Mapping[str, Any]]) -> None:
    for name, counts in stages.items():
        console.print(
            f"  {name:<14} built {counts['built']:>3}, reused {counts['reused']:>3}, {counts['seconds']:.1f} s",
            highlight=False,
        )


def _reasons(run: RunFolder) -> set[str]:
    return {trial.reason for trial in run.read_trials() if trial.reason}
