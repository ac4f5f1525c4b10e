"""What a search engine has to offer so that it can be replayed on a recorded table, ours and every peer alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

State: TypeAlias = Literal["ok", "infeasible", "failed", "stopped"]
Next: TypeAlias = Literal["measure", "stop"] | int


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What an engine may know of a table before it has tried anything.

    Attributes:
        knobs: name -> the values it can take, in the order of their codes.
        codes: (candidates, knobs) the code of each knob's value in each candidate; -1 where the knob does not count.
        stages: names in the order in which they are built.
        stage_knobs: stage -> the knobs it adds.
        objectives: name -> ``max`` or ``min``.
        reference: objective -> the worst value that a user would accept.
        floor: objective -> the repeatability below which differences are noise; relative where ``logarithmic``.
        logarithmic: the objectives compared by ratio.
        measured: the objectives that are known once the trial was measured on the device; accuracy is known once all
            items are scored, the others once the trial is built.
        hints: knob -> what is known of it beforehand: ``ordered``, and per objective ``up`` or ``down``.
        items: how many items score a candidate in full.
    """

    knobs: Mapping[str, Sequence[str | int | float | bool]]
    codes: npt.NDArray[np.int16]
    stages: Sequence[str]
    stage_knobs: Mapping[str, Sequence[str]]
    objectives: Mapping[str, Literal["max", "min"]]
    reference: Mapping[str, float]
    floor: Mapping[str, float]
    logarithmic: frozenset[str]
    measured: frozenset[str]
    hints: Mapping[str, Mapping[str, bool | str]]
    items: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a trial so far.

    Attributes:
        row: the candidate, a row of ``Ground.codes``.
        values: objective -> value, of those known by now; accuracy once all items are scored.
        right: whether each item scored so far was answered rightly; items come in one order for all trials.
        costs: stage -> seconds paid for it; 0.0 where the rule of charging makes it free. Beside the stages: ``load``,
            ``items`` and ``measure``.
    """

    row: int
    values: Mapping[str, float]
    right: npt.NDArray[np.bool_]
    costs: Mapping[str, float]


class Engine(Protocol):
    """One search over one table. Suggestion time is charged as measured: the CPU time of ask, proceed and tell."""

    def ask(self) -> int | None:
        """The candidate to try next, a row of ``Ground.codes``; null when the engine has nothing left to try."""
        ...

    def proceed(self, seen: Seen) -> Next:
        """What to do next with a trial that is built: measure it, score so many more items, or stop it here.

        Asked until the trial is measured and scored in full, or stopped. A number above what is left scores what is
        left; measuring twice is refused.
        """
        ...

    def tell(self, seen: Seen, state: State, reason: str) -> None:
        """A trial ended: in full, stopped by the engine, or because it cannot be built or run.

        One that cannot be built or run was not asked about: this is all that is heard of it.
        """
        ...

    def returned(self) -> Sequence[int]:
        """The rows, of those it asked for, that the engine would hand to its user now; changes no state."""
        ...
