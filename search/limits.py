"""Which limits of the search a trial misses: everywhere, and on each device."""

from collections.abc import Iterable, Mapping

from objectives.devices import split
from objectives.trial import DeviceResult, Figure, State

Limits = Mapping[str, Mapping[str, float]]


def violations(figures: Mapping[str, Figure], limits: Limits) -> tuple[str, ...]:
    """One sentence for each limit that the figures miss, or that has no figure to be held against."""
    missed = []
    for name, bounds in limits.items():
        value = figures[name].value if name in figures else None
        for side, bound in bounds.items():
            if value is None:
                missed.append(f"{name} could not be measured, and its limit is {side} {bound:g}")
            elif value < bound if side == "min" else value > bound:
                missed.append(f"{name} is {value:.4g}, and its limit is {side} {bound:g}")
    return tuple(missed)


def of_one(limits: Limits, device: str) -> Limits:
    """The limits that are one device's own."""
    return {name: bounds for name, bounds in limits.items() if split(name)[1] == device}


def judged(
    figures: Mapping[str, Figure], limits: Limits, devices: Mapping[str, DeviceResult]
) -> tuple[State, tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Whether a trial is complete or infeasible, the limits that it misses everywhere, and those by device.

    A limit that is one device's own says nothing of the others: the trial is infeasible where it misses one that is
    everyone's, or its own on every device that it could run on. What a device has still to measure does not count.
    """
    common = violations(figures, of_one(limits, ""))
    each = {
        name: violations(figures, of_one(limits, name)) if found.state != "missing" else ()
        for name, found in devices.items()
    }
    able = [name for name, found in devices.items() if found.state != "infeasible"]
    if common or (able and all(each[name] for name in able)):
        return "infeasible", (*common, *_all(each.values())), each
    return "complete", (), each


def _all(sentences: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(one for several in sentences for one in several)
