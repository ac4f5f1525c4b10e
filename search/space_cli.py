"""The verbs that look at a search space before anything is built."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.output import Json

if TYPE_CHECKING:
    from rich.table import Table

    from hardware_profiles.profile import Profile
    from search.outlook import Setting
    from spaces.knobs import Knob
    from spaces.space import Space

SHOWN = 40
"""Lines of a table for people; ``--json`` has all."""
_THINNED = "The space has more settings than are estimated; of numbers a few stand for all, both ends among them."

space_app = typer.Typer(help="Look at a search space before anything is built.", no_args_is_help=True)
SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The space file.")]


@space_app.command("check", epilog="Example: vlmfront space check space.yaml --task task.yaml")
def check_command(
    path: SpaceFile,
    task: Annotated[Path | None, typer.Option(metavar="TASK.yaml", help="Check it with this task.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether every candidate of the space is legal, and what it holds."""
    from rich.console import Console

    from hardware_profiles.profile import local
    from objectives.task import load_task
    from search.checks import legal_space, models, narrowed
    from search.fit import fitting_splits

    space = legal_space(path)
    if task is not None:
        fitting_splits(space, load_task(task))
    _, notes = narrowed(space, local())
    notes = (*_idle(space), *notes)
    if as_json:
        knobs = [_as_json(knob) for knob in space.knobs]
        found = {"space": str(path), "candidates": space.count, "models": list(models(space)), "knobs": knobs}
        print(json.dumps(found | {"notes": list(notes)}))
        return
    console = Console()
    console.print(_knob_table(space))
    count = f"{space.count:,} candidates" if space.count is not None else "candidates without number"
    console.print(f"{path} is legal: {count}, {_plural(len(models(space)), 'model')}.", highlight=False, markup=False)
    for note in notes:
        console.print(f"Note: {note}", style="yellow", highlight=False, markup=False)


@space_app.command("list", epilog="Example: vlmfront space list space.yaml --limit 20")
def list_command(
    path: SpaceFile,
    limit: Annotated[int, typer.Option(min=1, help="At most so many candidates.")] = SHOWN,
    as_json: Json = False,
) -> None:
    """List candidates with their ids; of their values those that vary."""
    from itertools import islice

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reports.words import describe, model_names
    from search.checks import legal_space, models
    from search.outlook import varying
    from spaces.errors import BadInput

    space = legal_space(path)
    if space.count is None:
        raise BadInput(f"{path}: a space with a continuous knob cannot be listed; give the knob a step or choices.")
    found = list(islice(space.candidates(), limit))
    if as_json:
        listed = [{"id": one.id, "values": dict(one.values)} for one in found]
        print(json.dumps({"space": str(path), "candidates": space.count, "listed": listed}))
        return
    varied, names = varying(space), model_names(models(space))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Id", no_wrap=True)
    table.add_column("Model", no_wrap=True)
    table.add_column("Configuration: what varies and changes something", overflow="fold")
    for one in found:
        model, *rest = describe({name: value for name, value in one.values.items() if name in varied}, names)
        table.add_row(one.id, Text(model), Text(" · ".join(rest) or "as it comes"))
    console = Console()
    console.print(table)
    fixed = [f"{knob.name} {_listed(knob)}" for knob in space.knobs if knob.name not in varied]
    same = f" Fixed: {', '.join(fixed)}." if fixed else ""
    console.print(f"{len(found):,} of {space.count:,} candidates.{same}", highlight=False, markup=False, soft_wrap=True)


@space_app.command("estimate", epilog="Example: vlmfront space estimate space.yaml --device local")
def estimate_command(
    path: SpaceFile,
    device: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="local, a built-in profile or a YAML file; if not given, all of them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate size and memory of what the space deploys, and what fits where, before anything is built."""
    from dataclasses import asdict

    from rich.console import Console

    from hardware_profiles.calibration import measured_here
    from hardware_profiles.profile import built_in, local, named
    from search.checks import legal_space
    from search.outlook import builds, distinct, settings

    space = legal_space(path)
    if device is None:
        devices = (measured_here(local()), *built_in())
    else:
        devices = (measured_here(local()) if device == "local" else named(device),)
    (found, whole), stages = settings(space, devices), builds(space)
    if as_json:
        rows = [asdict(one) | {"memory_bytes": one.estimate.memory_bytes} for one in found]
        names = [
            {
                "name": one.name,
                "memory_bytes": one.memory_bytes,
                "source": one.source,
                "processors": {name: unit.model_dump() for name, unit in one.processors.items()},
                "sources": {name: source.model_dump() for name, source in one.sources.items()},
            }
            for one in devices
        ]
        head = {"space": str(path), "candidates": space.count, "builds": stages, "devices": names}
        print(json.dumps(head | {"settings": rows, "notes": [] if whole else [_THINNED]}))
        return
    console = Console()
    shown = distinct(found)
    console.print(_estimate_table(shown[:SHOWN]))
    if len(shown) > SHOWN:
        console.print(f"The first {SHOWN} of {len(shown):,} lines; --json has all.", highlight=False)
    if not whole:
        console.print(f"Note: {_THINNED}", style="yellow", highlight=False, soft_wrap=True)
    count = f"{space.count:,} candidates" if space.count is not None else "Candidates without number"
    shared = ", ".join(f"{name} {_count(number)}" for name, number in stages.items())
    console.print(f"{count}; different artifacts to build, by stage: {shared}.", highlight=False, soft_wrap=True)
    for one in devices:
        unfit = sum(not setting.fits[one.name] for setting in found)
        style = "red" if unfit else ""
        console.print(f"  {_outlook(one, found, unfit)}", style=style, highlight=False, soft_wrap=True)
    console.print(
        "Memory in the table is a lower bound: weights and the cache of one image. What is predicted comes from a "
        "profile, not from a measurement, and is for the fewest visual tokens; its interval is wide without anchors.",
        style="dim",
        soft_wrap=True,
    )


def _outlook(device: "Profile", found: "list[Setting]", unfit: int) -> str:
    """A device's memory, what cannot run on it, and what the lightest and the heaviest setting should take."""
    from search.feasibility import in_bytes

    rooms = sorted({room for one in _runtimes(found) if (room := device.room(*one)) is not None})
    verdict = f"{unfit} of {_plural(len(found), 'setting')} cannot run" if unfit else "nothing is ruled out"
    memory = " or ".join(map(in_bytes, rooms)) or "memory unknown"
    said = [one.predicted[device.name] for one in found]
    times = sorted((one.latency_ms for one in said if one.latency_ms), key=lambda one: one.value)
    if not times:
        return f"{device.name}: {memory}, {verdict}; no latency predicted, its profile lacks figures."
    units = {device.processor(*one)[0] for one in _runtimes(found)}
    figures = [f"{unit}.{name}" for unit in units for name in ("bandwidth", "peak")]
    label = "predicted" if device.verified(*figures) else "predicted, unverified"
    least, most = times[0], times[-1]
    needs = sorted(said, key=lambda one: one.memory_bytes.value)
    return (
        f"{device.name}: {memory}, {verdict}; {label}: latency {least.low:,.2f} to {least.high:,.0f} ms for the "
        f"lightest and {most.low:,.2f} to {most.high:,.0f} ms for the heaviest setting, memory "
        f"{in_bytes(needs[0].memory_bytes.low)} to {in_bytes(needs[-1].memory_bytes.high)}."
    )


def _runtimes(found: "list[Setting]") -> set[tuple[str, str]]:
    """Each runtime that occurs, with the device that its bundles are pinned to."""
    knobs = (("runtime.name", "openvino"), ("runtime.device", "cpu"))
    return {(str(one.knobs.get(*knobs[0])), str(one.knobs.get(*knobs[1]))) for one in found}


def _estimate_table(found: "list[Setting]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from search.feasibility import in_bytes

    names = list(dict.fromkeys(name for one in found for name in one.knobs))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Model", overflow="fold")
    for name in names:
        table.add_column(name.replace(".", "\n", 1))
    for heading in ("Parameters", "Weights", "Memory\nat least"):
        table.add_column(heading, justify="right")
    table.add_column("Does not fit")
    for one in found:
        unfit = [name for name, fits in one.fits.items() if not fits]
        cells = [Text(_value(one.knobs[name]) if name in one.knobs else "–") for name in names]
        numbers = f"{one.estimate.parameters / 1e6:,.2f} M", in_bytes(one.estimate.weight_bytes)
        row = [Text(Path(one.model).name), *cells, *map(Text, numbers), Text(in_bytes(one.estimate.memory_bytes))]
        table.add_row(*row, Text(", ".join(unfit)), style="red" if unfit else None)
    return table


def _knob_table(space: "Space") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from spaces.knobs import describe

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Knob", "Values", "Counts when"):
        table.add_column(heading, overflow="fold")
    for knob in space.knobs:
        table.add_row(Text(knob.name), Text(_listed(knob)), Text(describe(knob), style="dim"))
    return table


def _listed(knob: "Knob") -> str:
    from spaces.knobs import Choices

    if isinstance(knob, Choices):
        return ", ".join(_value(value) for value in knob.values)
    grid = f" in steps of {knob.step:g}" if knob.step else (", logarithmic" if knob.log else "")
    return f"{knob.low:g} to {knob.high:g}{grid}"


def _as_json(knob: "Knob") -> dict[str, Any]:
    from spaces.knobs import Choices, describe

    if isinstance(knob, Choices):
        return {"name": knob.name, "values": list(knob.values), "when": describe(knob)}
    bounds = {"low": knob.low, "high": knob.high, "step": knob.step, "log": knob.log}
    return {"name": knob.name, **bounds, "when": describe(knob)}


def _idle(space: "Space") -> list[str]:
    from spaces.knobs import describe
    from spaces.legality import idle

    return [f"{knob.name} never counts: it does only when {describe(knob)}." for knob in idle(space)]


def _value(value: object) -> str:
    from spaces.printable import printable

    return f"{value:g}" if isinstance(value, float) else printable(str(value), 200)


def _count(number: int | None) -> str:
    return f"{number:,}" if number is not None else "too many to count"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
