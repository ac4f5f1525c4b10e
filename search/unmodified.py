"""The unmodified reference: a candidate's own model as it comes, whose answers show what the candidate changed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock

from pydantic import TypeAdapter, ValidationError

from hardware_profiles.store import write_atomic
from objectives.registry import Retained
from search.build import StageTree
from search.executors import Interrupted
from search.progress import Progress
from search.scoring import Scored
from spaces.axes import Value
from spaces.candidate import Candidate
from spaces.space import Space

_WAIT_S = 0.1
_KEPT = ("runtime.name", "runtime.server", "runtime.device", "runtime.threads")
"""Knobs that say where a model runs, not what it answers: the reference has those of the space."""


@dataclass(frozen=True)
class Reference:
    """What an unmodified model answered: texts on the search split, scores on the retention set, each by id."""

    answers: Mapping[str, str]
    retained: Mapping[str, float] | None


_JSON = TypeAdapter(Reference)


class Unmodified:
    """The references of one run, one a model, each scored once and kept in ``references/`` by the model's digest."""

    def __init__(self, run: Path, space: Space, tree: StageTree) -> None:
        self._folder = run / "references"
        self._folder.mkdir(exist_ok=True)
        self._space = space
        self._tree = tree
        self._lock = Lock()
        self._turns: dict[str, Lock] = {}
        self.failed: dict[Value, str] = {}

    def candidate(self, model: Value) -> Candidate:
        """The model with every knob at its default."""
        comes = self._space.as_it_comes(model).values
        return Candidate({"model.path": model, **{name: comes[name] for name in _KEPT if name in comes}})

    def is_it(self, candidate: Candidate) -> bool:
        """Whether the candidate deploys the very same as its model's reference."""
        return self._deployed(candidate) == self._deployed(self.candidate(candidate.values["model.path"]))

    def read(self, model: Value) -> Reference | None:
        """The model's reference, if it was scored; a damaged file counts as none."""
        try:
            return _JSON.validate_json(self._file(model).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, model: Value, found: Scored) -> Reference:
        """Keep what the model answered as it comes."""
        kept = found.retained
        reference = Reference(
            answers={one.id: one.answer for one in found.answers},
            retained={row.id: score for row, score in zip(kept.samples, kept.scores, strict=True)} if kept else None,
        )
        text = json.dumps({"model": str(model), **_JSON.dump_python(reference)}, ensure_ascii=False, allow_nan=False)
        write_atomic(self._file(model), text)
        return reference

    def bundle(self, model: Value) -> Path:
        """Where the reference's bundle is while it is scored."""
        return self._folder / f"{self._key(model)}.bundle"

    @contextmanager
    def turn(self, model: Value, stop: Event) -> Iterator[None]:
        """Hold the model's reference, so that no two workers score it.

        Raises:
            Interrupted: ``stop`` was set while another held it.
        """
        with self._lock:
            turn = self._turns.setdefault(self._key(model), Lock())
        while not turn.acquire(timeout=_WAIT_S):
            if stop.is_set():
                raise Interrupted
        try:
            yield
        finally:
            turn.release()

    def _deployed(self, candidate: Candidate) -> tuple[list[str], dict[str, Value]]:
        bound = {
            f"{axis.name}.{name}": value
            for axis in self._space.axes
            for name, value in self._space.choice(candidate, axis).items()
            if axis.domains[name].bound
        }
        return [stage.key for stage in self._tree.plan(candidate)], bound

    def _file(self, model: Value) -> Path:
        return self._folder / f"{self._key(model)}.json"

    def _key(self, model: Value) -> str:
        return self._tree.model_digest(self._space.folder / str(model))[:16]


def hold_against(reference: Reference, progress: Progress) -> None:
    """Take in what the unmodified model answered, for the trial and for each device that answered itself."""

    def held(kept: Retained | None) -> Retained | None:
        return replace(kept, unmodified=reference.retained) if kept else None

    outcome = progress.outcome
    on = {device: {**own, "retained": held(own.get("retained"))} for device, own in outcome.on.items()}
    progress.learn(unmodified=reference.answers, retained=held(outcome.retained), on=on)
