"""The report's section on devices: what each one is, what happened to it, and how its figures came about."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

from hardware_profiles.messages import Measurement
from objectives.devices import devices_of
from objectives.latency import between_processes, counted
from objectives.records import DeviceEvent
from objectives.run import RunFolder
from objectives.trial import DeviceResult, Trial
from reports.markup import Html, card, element, join
from reports.words import by_kind

_MOST_HAPPENED = 12
_MOST_SHOWN = 200  # characters of a reason, which may name processes with their arguments
_EVENTS = {"lost": "was lost", "back": "came back", "interrupted": "was interrupted"}
_THERE_AGAIN = "was there again when the search went on"


def devices_section(run: RunFolder, trials: Sequence[Trial]) -> Html | None:
    """A card with a list for each device of the run; none for a run that has none on record."""
    if not run.settings.get("devices"):
        return None
    each = [_device(run, name, trials) for name in devices_of(run.settings)]
    note = (
        "Every figure of speed, memory and energy was measured on the device that it is given for, alone on it but for "
        "what the notes name."
    )
    if any(one.get("predicted") for one in run.settings["devices"].values()):
        note = "No device was measured: figures of speed and memory are predictions from a profile."
    return card("Devices" if len(each) > 1 else "Device", note, element("div", *each, class_="devices"))


def _device(run: RunFolder, name: str, trials: Sequence[Trial]) -> Html:
    record = run.settings["devices"][name]
    facts = record.get("facts") or {}
    results = [trial.devices[name] for trial in trials if name in trial.devices]
    measurements = list(_measurements(run, name, trials))
    rows = [
        ("Profile", _profile(record, facts)),
        ("Agent", f"vlmfront {record['agent']}" if record.get("agent") else None),
        ("Runtimes", _pairs(record.get("runtimes"))),
        ("Sensors", _pairs(facts.get("sensors"))),
        ("Energy from", "; ".join(sorted({one.energy_source for one in measurements if one.energy_source})) or None),
        ("Isolation", _pairs(facts.get("isolation"))),
        ("Platform", _pairs(facts.get("platform"))),
        ("Temperature", _temperature(measurements)),
        ("Figures", _figures(results)),
        ("Reference", _drift(run, name)),
        ("What happened", _happened(run, name, trials, measurements)),
    ]
    pairs = [join(element("dt", key), element("dd", value)) for key, value in rows if value]
    return element("div", element("h3", name), element("dl", *pairs))


def _profile(record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    known = [record.get("profile"), facts.get("model"), facts.get("cpu")]
    memory = facts.get("memory_bytes")
    known += [f"{memory / 1e9:.1f} GB"] if memory else []
    known += [f"{record['threads']} threads"] if record.get("threads") else []
    known += list((facts.get("accelerators") or {}).values())
    return ", ".join(dict.fromkeys(str(one) for one in known if one))


def _pairs(found: object) -> Html | None:
    """A line for each."""
    if not isinstance(found, Mapping) or not found:
        return None
    return join(*[element("div", f"{key} {value}") for key, value in found.items()])


def _measurements(run: RunFolder, name: str, trials: Iterable[Trial]) -> Iterator[Measurement]:
    """Each measurement once, of however many trials; damaged ones are passed over."""
    for deployed in dict.fromkeys(trial.deployed for trial in trials if trial.deployed):
        try:
            found = run.read_measurement(deployed, name)
        except (OSError, ValidationError):
            continue
        if found is not None:
            yield found


def _temperature(measurements: Sequence[Measurement]) -> str | None:
    read = [one.temperature_c for measured in measurements for one in measured.trace if one.temperature_c is not None]
    return f"{min(read):.0f} to {max(read):.0f} °C while measuring" if read else None


def _figures(results: Sequence[DeviceResult]) -> str | None:
    counts = Counter(
        {
            "measured": f"{one.mode}" if one.shared is None else f"{one.mode}, shared with another trial",
            "predicted": "predicted, not measured",
            "invalid": "invalid",
            "infeasible": "cannot run there",
            "missing": "still to be measured",
        }[one.state]
        for one in results
    )
    own = sum(one.answered for one in results)
    parts = [f"{count} {what}" for what, count in counts.most_common()]
    parts += [f"{own} answered there, not on the host"] if own else []
    return ", ".join(parts) or None


def _drift(run: RunFolder, name: str) -> str | None:
    """How the p50 of one bundle moved over the run: its spread, and the last against the first."""
    references = run.read_references(name)
    each = [one.measurement.timings for one in references if one.measurement.timings]
    p50 = [statistics.median(timing.e2e_ms for timing in timings) for timings in each]
    if len(p50) < 2:
        return None
    minutes = (references[-1].time - references[0].time) / 60
    measurements = [one.measurement for one in references]
    used = len(counted(measurements))
    without = f" (by {used} of them: the others were disturbed)" if used < len(measurements) else ""
    return (
        f"trial {references[0].trial}, measured {len(p50)} times over {minutes:.0f} min: p50 {min(p50):.2f} to "
        f"{max(p50):.2f} ms, the last {100 * (p50[-1] / p50[0] - 1):+.1f} % from the first; another process lies "
        f"within {100 * between_processes(measurements):.1f} %{without}"
    )


def _happened(run: RunFolder, name: str, trials: Sequence[Trial], measurements: Sequence[Measurement]) -> Html | None:
    told = [*_events(one for one in run.device_events() if one.device == name), *_repeats(measurements)]
    invalid = Counter(
        found.reason for trial in trials if (found := trial.devices.get(name)) and found.state == "invalid"
    )
    told += [f"{count} measurements not to be used: {reason}" for reason, count in invalid.most_common()]
    waits = [trial.number for trial in trials if name in trial.waits_for]
    told += [f"still to be measured: trials {', '.join(map(str, waits))}"] if waits else []
    if not told:
        return None
    more = [f"and {len(told) - _MOST_HAPPENED} more"] if len(told) > _MOST_HAPPENED else []
    return element("ul", *[element("li", line) for line in [*told[:_MOST_HAPPENED], *more]])


def _events(events: Iterable[DeviceEvent]) -> Iterator[str]:
    """What befell one device. That it was opened is told where the search before had lost it."""
    away = False
    for one in events:
        what = _THERE_AGAIN if away and one.event == "opened" else _EVENTS.get(one.event)
        away = one.event == "lost" or (away and one.event == "interrupted")
        if what:
            yield f"{_clock(one.time)} {what}{f': {one.reason}' if one.reason else ''}"


def _repeats(measurements: Sequence[Measurement]) -> list[str]:
    """How often a process was repeated, by what kind of thing had disturbed it, with the last one's reason."""
    kinds = by_kind(reason for one in measurements for reason in one.retries)
    return [
        f"repeated {f'{len(found)} times, at last ' if len(found) > 1 else ''}because "
        f"{shorten(found[-1], _MOST_SHOWN, placeholder=' …')}"
        for found in sorted(kinds, key=len, reverse=True)
    ]


def _clock(seconds: float) -> str:
    """Local time with its date and its distance to UTC: a run may go on for days, and be read elsewhere."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
