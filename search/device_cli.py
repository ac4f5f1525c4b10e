"""The verbs for target devices: pair one, list them, look whether one can be trusted, forget one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.output import Json, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hardware_profiles.devices.check import Checked

device_app = typer.Typer(help="Target devices: pair, list, check and remove them.", no_args_is_help=True)
MOST_S = 3600.0  # that an agent keeps a device under load (`hardware_profiles.agent.layout`)
Name = Annotated[str, typer.Argument(help="The device's name: letters, digits, - and _.")]


@device_app.command("add", epilog="Example: vlmfront device add bench 192.168.1.20:7433 3f9a…::kX0…")
def add_command(
    name: Name,
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where its agent listens.")],
    token: Annotated[str, typer.Argument(help="What `vlmfront-agent pair` printed there; valid once, 10 minutes.")],
    as_json: Json = False,
) -> None:
    """Pair a device. Its certificate is compared with the token before anything secret is sent."""
    from hardware_profiles.devices.pairing import add_device
    from hardware_profiles.profile import profile_of

    device, hello = add_device(name, address, token)
    kind = profile_of(hello.facts).name
    values = {"name": name, "address": device.address, "fingerprint": device.fingerprint, "profile": kind}
    say(values, as_json, f"{name} is paired: {kind}, vlmfront {hello.agent}. Look at it: vlmfront device check {name}")


@device_app.command("list", epilog="Example: vlmfront device list    For scripts: vlmfront device list --json")
def list_command(as_json: Json = False) -> None:
    """List the devices that a search can name. None is contacted."""
    from rich.console import Console
    from rich.table import Table

    from hardware_profiles.devices.known import LOCAL, find, paired_names

    known = [find(name) for name in paired_names()]
    if as_json:
        rows = [{"name": LOCAL, "address": "", "fingerprint": "", "paired": ""}]
        rows += [vars(one) | {"certificate": None} for one in known]
        kept = [{key: value for key, value in row.items() if key != "certificate"} for row in rows]
        print(json.dumps({"devices": kept}))
        return
    table = Table("name", "address", "fingerprint", "paired", box=None, pad_edge=False)
    table.add_row(LOCAL, "this machine", "", "")
    for one in known:
        table.add_row(one.name, one.address, one.fingerprint[:16], one.paired)
    Console().print(table)


@device_app.command(
    "check",
    epilog="Example: vlmfront device check bench    Measure there as well: --bundle deploy/",
)
def check_command(
    name: Name,
    bundle: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A bundle to measure three times.")] = None,
    sustained: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, max=MOST_S, help="For so long each time, to see if it slows."),
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Show what a device is and has, how fast the way to it is, and with a bundle whether its figures repeat."""
    from dataclasses import asdict
    from threading import Event

    from rich.console import Console

    from hardware_profiles.devices.check import check
    from spaces.printable import printable

    errors = Console(stderr=True)
    cancel = Event()
    found = check(
        name,
        bundle,
        sustained_s=sustained,
        cancel=cancel,
        waiting=lambda told: errors.print(printable(told), markup=False, style="dim"),
    )
    if as_json:
        repeated = found.repeated and asdict(found.repeated) | {"spread": found.repeated.spread}
        values = {field: getattr(found, field) for field in ("here", "round_trip_ms", "clock_skew_s", "upload_mb_s")}
        values |= {"hello": asdict(found.hello), "profile": found.profile.name, "repeated": repeated}
        print(json.dumps({"name": name} | values))
        return
    _show(found)


@device_app.command("remove", epilog="Example: vlmfront device remove bench")
def remove_command(name: Name, as_json: Json = False) -> None:
    """Forget a device here. On the device, its owner unpairs this host."""
    from hardware_profiles.devices.known import forget

    host = forget(name)
    unpair = f"vlmfront-agent unpair {host or 'NAME'}"
    lists = "" if host else " (NAME as vlmfront-agent paired lists it)"
    text = f"{name} is forgotten here; run this on the device as well: {unpair}{lists}"
    say({"removed": name, "run_on_device": unpair}, as_json, text)


def _show(found: "Checked") -> None:
    from rich.console import Console
    from rich.table import Table

    from spaces.printable import printable

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(found):
        table.add_row(name, printable(str(value)))
    Console().print(table, markup=False)


def _lines(found: "Checked") -> "Iterator[tuple[str, Any]]":
    """What people see, line by line."""
    hello, facts = found.hello, found.hello.facts
    yield "profile", found.profile.name + (", this very machine" if found.here else "")
    yield "device", ", ".join(filter(None, (facts.model, facts.cpu, facts.machine)))
    yield "memory", f"{facts.memory_bytes / 1e9:.1f} GB, {facts.threads} threads, computes {', '.join(facts.dtypes)}"
    yield from (("accelerator", f"{name}: {what}") for name, what in facts.accelerators.items())
    yield "agent", f"vlmfront {hello.agent}"
    yield "runtimes", ", ".join(f"{name} {version}" for name, version in hello.runtimes.items()) or "none"
    if hello.servers:
        yield "servers", ", ".join(hello.servers)
    yield from ((f"sensor {name}", where) for name, where in facts.sensors.items())
    yield from ((f"isolated {name}", how) for name, how in facts.isolation.items())
    yield from facts.platform.items()
    yield "disk free", f"{hello.disk_free_bytes / 1e9:.1f} GB"
    skew = found.clock_skew_s
    yield (
        "clock",
        "not told" if skew is None else f"{round(skew, 1) + 0.0:+.1f} s against this host's, to half a second",
    )
    yield "line", f"{found.round_trip_ms:.1f} ms round trip, upload {found.upload_mb_s:.0f} MB/s with hash and fsync"
    if found.repeated is None:
        yield "measurement", "none made: add --bundle FOLDER, any that `vlmfront export` wrote"
        return
    for p50, one in zip(found.repeated.p50_ms, found.repeated.measurements, strict=True):
        told = "".join(f"; {reason}" for reason in one.reasons)
        told += "".join(f"; p50 {own.trend - 1:+.1%} from first to last" for own in one.processes if own.trend)
        peak = f"peak {one.memory_peak_bytes / 1e6:.0f} MB"
        energy = f"no energy ({one.energy_source})" if one.energy_j is None else f"{one.energy_j:.3g} J an answer"
        yield "measurement", f"p50 {p50:.2f} ms of {len(one.timings)}, {peak}, {energy}, {one.verdict}{told}"
    yield "repeats", f"within {found.repeated.spread:.1%} over {len(found.repeated.p50_ms)} measurements"
