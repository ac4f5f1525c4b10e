"""Figures in a search of several devices: one name for each device whose own they are, and each device's own view."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from objectives.registry import Direction, Objective, Outcome, of_device
from objectives.trial import Figure, Trial

AT = "@"


@dataclass(frozen=True)
class Bound:
    """An objective as one device of several has it: ``latency_p50_ms@pi``."""

    base: Objective
    device: str

    @property
    def name(self) -> str:
        """As in :class:`objectives.registry.Objective`, with the device."""
        return f"{self.base.name}{AT}{self.device}"

    @property
    def label(self) -> str:
        """As in :class:`objectives.registry.Objective`, with the device."""
        return f"{self.base.label} on {self.device}"

    @property
    def unit(self) -> str:
        """As in :class:`objectives.registry.Objective`."""
        return self.base.unit

    @property
    def direction(self) -> Direction:
        """As in :class:`objectives.registry.Objective`."""
        return self.base.direction

    @property
    def relative(self) -> bool:
        """As in :class:`objectives.registry.Objective`."""
        return self.base.relative

    of_device = True

    def figure(self, outcome: Outcome) -> Figure:
        """The figure of the outcome on this device."""
        return self.base.figure(replace(outcome, on={}, **outcome.on.get(self.device, {})))


def split(name: str) -> tuple[str, str]:
    """A figure's plain name and its device; no device where it is not one device's own."""
    base, _, device = name.partition(AT)
    return base, device


def bound(known: Mapping[str, Objective], devices: Iterable[str]) -> dict[str, Objective]:
    """The figures of a search: as they are with one device, else those of a device once for each, in their order."""
    names = tuple(devices)
    if len(names) < 2:
        return dict(known)
    found: dict[str, Objective] = {}
    for name, objective in known.items():
        each = [Bound(objective, device) for device in names] if of_device(objective) else [objective]
        found |= {name if one is objective else one.name: one for one in each}
    return found


def devices_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The devices of a run, by its settings."""
    return tuple(settings.get("devices") or ("local",))


def seen_from(trial: Trial, device: str) -> Trial:
    """The trial as one device has it: that device's figures under their plain names, and no other's.

    Where the device answered the split itself, figures of answers are its own. A trial that misses a limit there, or
    cannot run there, is infeasible or failed in its view whatever it is elsewhere.
    """
    figures = {name: figure for name, figure in trial.figures.items() if AT not in name}
    figures |= {base: figure for name, figure in trial.figures.items() for base, at in [split(name)] if at == device}
    found = trial.devices.get(device)
    if found is None:
        return replace(trial, figures=figures)
    changed: dict[str, Any] = {"slices": found.slices} if found.slices else {}
    if trial.state == "complete" and found.violated:
        changed |= {"state": "infeasible", "violated": found.violated}
    elif trial.state == "complete" and found.state == "infeasible":
        changed |= {"state": "failed", "reason": found.reason}
    return replace(trial, figures=figures, labels=(*trial.labels, *found.labels), **changed)
