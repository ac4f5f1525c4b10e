"""The record of one trial: its candidate, its figures with intervals, its state and what it cost. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from spaces.axes import Value

State: TypeAlias = Literal["running", "complete", "infeasible", "failed", "pruned"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure: its value, the 95 % interval, and how many observations it rests on; null where unknown."""

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
class Trial:
    """One candidate with all that is known of it.

    Attributes:
        candidate: knob -> value (``"quantization.weights": "int4"``), active knobs only.
        figures: by the name of their :class:`objectives.registry.Objective`; of a ``pruned`` trial those of the items
            up to which it was scored.
        slices: accuracy by field, then by that field's value.
        violated: limits that the trial misses, one sentence each (state ``infeasible``).
        confusion: where the task has costs, how often each class (outer keys) got each answer.
        seconds: wall time by phase: ``build``, ``score``, ``measure``, ``reference`` (its unmodified model), ``wait``.
        scoring: how the answers came about, as the runtime says (in batches or one by one, drafts).
        labels: what a reader of the figures must know (a measurement's labels, ``provisional``).
        started, finished: seconds since the epoch.
    """

    number: int
    candidate_id: str
    candidate: Mapping[str, Value]
    state: State
    reason: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    violated: tuple[str, ...] = ()
    stages: tuple[StageCost, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    scoring: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    started: float = 0.0
    finished: float = 0.0
