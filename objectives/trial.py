"""The record of one trial: its candidate, its figures with intervals, its state and what it cost. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hardware_profiles.messages import Mode
from spaces.axes import Value

State: TypeAlias = Literal["running", "complete", "infeasible", "failed", "pruned"]
DeviceState: TypeAlias = Literal["measured", "invalid", "infeasible", "missing", "predicted"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure: its value, the 95 % interval, and how many observations it rests on; null where unknown.

    The interval of energy is of 93.75 %, since five processes allow no more (`objectives.energy`).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One stage of the tree as this trial met it; ``seconds`` is what it cost when built, also where ``reused``."""

    name: str
    key: str
    seconds: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class DeviceResult:
    """What became of a trial on one device of the search.

    Attributes:
        state: ``measured``; ``invalid``: measured, but not to be used, so its figures are null; ``infeasible``: the
            configuration cannot run there; ``missing``: the device was away and has still to measure it; ``predicted``.
        reason: why it was not measured, or why the measurement is invalid.
        mode: how thoroughly it was measured; null where it was not.
        shared: an earlier trial that deploys the very same, whose measurement is also this one's; null without.
        answered: the split was answered on the device, so figures of its answers are the device's own.
        labels: what a reader of the device's figures must know (``provisional``, a measurement's reasons).
        violated: limits that the trial misses on this device, one sentence each.
        slices: accuracy by slice where the device's answers are not those of the trial; else empty.
    """

    state: DeviceState
    reason: str = ""
    mode: Mode | None = None
    shared: int | None = None
    answered: bool = False
    labels: tuple[str, ...] = ()
    violated: tuple[str, ...] = ()
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate with all that is known of it.

    Attributes:
        candidate: knob -> value (``"quantization.weights": "int4"``), active knobs only.
        deployed: digest of what its bundle makes a device do; trials that have it in common share measurements.
        figures: by the name of their :class:`objectives.registry.Objective`, which ends in ``@`` and the device where
            the search has several and the figure is one device's own; of a ``pruned`` trial those of the items up to
            which it was scored.
        devices: what became of it on each device of the search.
        slices: accuracy by field, then by that field's value.
        violated: limits that the trial misses on every device, one sentence each (state ``infeasible``).
        confusion: where the task has costs, how often each class (outer keys) got each answer.
        seconds: wall time by phase: ``build``, ``score``, ``measure``, ``reference`` (its unmodified model), ``wait``.
        scoring: how the answers came about, as the runtime says (in batches or one by one, drafts).
        labels: what a reader of the figures must know, on whatever device.
        started, finished: seconds since the epoch.
    """

    number: int
    candidate_id: str
    candidate: Mapping[str, Value]
    state: State
    reason: str = ""
    deployed: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    devices: Mapping[str, DeviceResult] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    violated: tuple[str, ...] = ()
    stages: tuple[StageCost, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    scoring: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    started: float = 0.0
    finished: float = 0.0

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The devices that have still to measure it; none where it failed or was raced out."""
        if self.state not in ("complete", "infeasible"):
            return ()
        return tuple(name for name, found in self.devices.items() if found.state == "missing")
