"""The axes of the joint space, one file each, and the Protocol that they and plug-ins meet.

In stage order: model, pruning, tuning, runtime (export), visual_tokens, quantization, prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from spaces.sample import Sample

Value: TypeAlias = bool | int | float | str
Choice: TypeAlias = Mapping[str, Value]
Samples: TypeAlias = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What one knob of an axis accepts.

    Attributes:
        kind: ``choice`` (one of ``values``), ``int`` and ``float`` (from ``low`` to ``high``), ``flag`` or ``text``.
        default: the value that a space without this knob has; for most knobs the one that changes nothing.
        when: the knob counts only while each of these knobs of the same axis has one of the listed values.
        unless: the knob does not count while one of these knobs of the same axis has one of the listed values.
        unless_all: the knob does not count while all these knobs of the same axis have one of the listed values.
        bound: the value is bound into the bundle's manifest and never reaches the artifact.
        help: one line with the unit, for the schema and for error messages.
    """

    kind: Literal["choice", "int", "float", "flag", "text"]
    default: Value
    help: str
    values: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    unless: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    unless_all: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    bound: bool = False


class Axis(Protocol):
    """One dimension of the joint space: its knobs and how a choice of them is applied to what will be deployed.

    Attributes:
        name: the axis's key in a space file.
        version: raised when ``apply`` comes to give another result for the same input; part of the stage key.
        tools: distributions whose installed versions are part of the stage key.
        domains: the axis's knobs.
    """

    name: str
    version: int
    tools: tuple[str, ...]
    domains: Mapping[str, Domain]

    def changes(self, choice: Choice) -> bool:
        """Whether this choice changes the artifact at all; where it does not, the stage is left out."""
        ...

    def reads(self, choice: Choice) -> tuple[str, ...]:
        """The splits whose samples ``apply`` reads for this choice (``train``, ``calibration``)."""
        ...

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        """Write to the empty folder ``target`` what becomes of the artifact in ``source``; ``source`` stays as it is.

        ``choice`` has every knob of the axis, those without a condition met at their defaults.

        Raises:
            StageFailed: with a reason that a user understands; the trial fails with it.
        """
        ...
