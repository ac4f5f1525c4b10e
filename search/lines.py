"""What a search tells while it runs, one line each: its devices, its trials, what happens to a device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.markup import escape

from objectives.devices import seen_from
from objectives.records import DeviceEvent
from objectives.trial import Trial
from reports.words import describe, figure_of, halves, plural
from search.fleet import LOCAL
from spaces.printable import printable

_EVENTS = {"opened": "is there", "lost": "is lost", "back": "is back", "interrupted": "was interrupted"}


def event_line(event: DeviceEvent) -> str:
    """What happened to a device."""
    return f"The device {event.device} {_EVENTS[event.event]}{f': {event.reason}' if event.reason else ''}"


def waiting_line(device: str, why: str) -> str:
    """That a device is waited for."""
    return f"Waiting for {device}: {printable(why)}"


def waits_words(device: str, trials: int) -> str:
    """How many trials wait for a device."""
    return f"{plural(trials, 'trial')} {'waits' if trials == 1 else 'wait'} for {device}"


def left_line(device: str, trials: int, *, there: bool) -> str:
    """That a search goes on which has trials that a device has still to measure."""
    when = "it is there, so this comes first" if there else "it is still away"
    return f"{waits_words(device, trials)}: {when}"


def caught_up_line(device: str, trials: int, of: int) -> str:
    """What became of those."""
    return f"Caught up on {device}: {trials} of {plural(of, 'trial')} measured that had waited for it"


def device_line(name: str, record: Mapping[str, Any]) -> str:
    """A device of a search in one line."""
    if record.get("predicted"):
        return f"Device {name}: not measured, predicted from its profile"
    runtimes = ", ".join(f"{runtime} {version}" for runtime, version in record["runtimes"].items())
    where = "an agent on this machine, which ends with the search" if name == LOCAL else "paired"
    return f"Device {name}: {where}; {record['profile']}, {record['threads']} threads; {runtimes}"


def trimmed(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """The trial with only the model and the knobs that vary in the space, so that its description is short."""
    knobs = settings["space"]["knobs"]
    varied = {name for name, values in knobs.items() if isinstance(values, dict) or len(values) > 1} | {"model.path"}
    return replace(trial, candidate={name: value for name, value in trial.candidate.items() if name in varied})


def trial_heading(devices: Sequence[str]) -> str:
    """What stands over the lines of trials."""
    return f"trial  accuracy  {'  '.join(_titles(devices).values())}  configuration"


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
    accuracy = figure_of(trial, "accuracy").value
    shown = f"{accuracy:.3f}" if accuracy is not None else "–"
    speed = _speeds(trial)
    violated = trial.violated or tuple(one for found in trial.devices.values() for one in found.violated)
    missed = f"  [yellow]{escape(violated[0])}[/yellow]" if violated else ""
    return f"[dim]{trial.number:>5}[/dim]  {shown:>8}  {speed}  {words}{apart}{missed}"


def _titles(devices: Sequence[str]) -> dict[str, str]:
    """The head of each device's column of latencies."""
    if len(devices) < 2:
        return dict.fromkeys(devices, "latency p50")
    return {name: f"{f'p50 on {name}':>11}" for name in devices}


def _speeds(trial: Trial) -> str:
    """The latency on each device, in their order."""
    cells = []
    for name, title in _titles(tuple(trial.devices) or (LOCAL,)).items():
        latency = figure_of(seen_from(trial, name), "latency_p50_ms").value
        cells.append(f"{'–' if latency is None else f'{latency:.2f} ms':>{len(title)}}")
    return "  ".join(cells)
