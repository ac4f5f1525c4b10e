"""The stage tree: from a candidate to the folder that is deployed, building only what no earlier candidate built.

A stage's key is a digest of its own choice and seed, the key of its input, the data it reads and the versions of the
axis and its tools. Candidates that agree up to a stage therefore share everything up to it.
"""

import errno
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hardware_profiles.store import Entry, Gone, Store
from spaces.axes import Axis, Samples, Value
from spaces.candidate import Candidate
from spaces.canonical import digest, folder_digest
from spaces.errors import StageFailed
from spaces.plugins import available, stage_reads
from spaces.sample import Sample
from spaces.space import Space

PARITY_ITEMS = 32
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of one candidate, ready to be built in any process.

    Attributes:
        key: of what the stage makes; ``input_key`` of what it is made from, empty for the model stage.
        folder: what a model's path is relative to; the first stage reads from there.
        samples: the splits that the stage reads.
        plugins: references of the axes that the space brings along.
        gate: samples on which an export has to answer like its source; empty where there is no gate.
    """

    axis: str
    choice: Mapping[str, Value]
    key: str
    input_key: str
    folder: Path
    samples: Mapping[str, Sequence[Sample]]
    gate: Sequence[Sample]
    max_new_tokens: int
    seed: int
    plugins: tuple[str, ...] = ()


class StageTree:
    """Plans the stages of candidates; digests of models and data are worked out once."""

    def __init__(
        self, space: Space, samples: Samples, data_digests: Mapping[str, str], max_new_tokens: int, seed: int
    ) -> None:
        self._space = space
        self._samples = samples
        self._data_digests = data_digests
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        self._model_digests: dict[Path, str] = {}

    def plan(self, candidate: Candidate) -> tuple[Stage, ...]:
        """The stages of a candidate in order; those that change nothing are left out.

        Raises:
            StageFailed: a plug-in's axis breaks, or reads a split that the task does not have.
        """
        model = self._space.folder / str(candidate.values["model.path"])
        stages: list[Stage] = []
        key = ""
        for axis in self._space.axes:
            choice = self._space.choice(candidate, axis)
            reads = stage_reads(axis, choice)
            if reads is None:
                continue
            if missing := set(reads) - set(self._samples):
                raise StageFailed(f"{axis.name} reads the split {min(missing)}, which the task does not have")
            source = {"model": self.model_digest(model)} if axis.name == "model" else {"input": key}
            input_key = key
            key = self._key(axis, choice, source, reads)
            stages.append(
                Stage(
                    axis=axis.name,
                    choice=choice,
                    key=key,
                    input_key=input_key,
                    folder=self._space.folder,
                    samples={split: self._samples[split] for split in reads},
                    gate=self._samples["calibration"][:PARITY_ITEMS] if axis.name == "runtime" else (),
                    max_new_tokens=self._max_new_tokens,
                    seed=self._seed,
                    plugins=self._space.plugins,
                )
            )
        return tuple(stages)

    def model_digest(self, folder: Path) -> str:
        """The digest of a model folder, read once."""
        if folder not in self._model_digests:
            self._model_digests[folder] = folder_digest(folder)
        return self._model_digests[folder]

    def _gate(self) -> list[object]:
        """What an export has passed when it is in the store: other samples or a longer answer are another gate."""
        return [self._data_digests["calibration"], PARITY_ITEMS, self._max_new_tokens]

    def _key(self, axis: Axis, choice: Mapping[str, Value], source: Mapping[str, str], reads: Sequence[str]) -> str:
        if axis.name == "model":
            own: dict[str, Value] = {"image_size": size} if (size := choice.get("image_size", 0)) else {}
        else:
            own = {knob: value for knob, value in choice.items() if not axis.domains[knob].bound}
            own["seed"] = self._seed
        return digest(
            {
                "axis": axis.name,
                "version": axis.version,
                "own": own,
                "data": {split: self._data_digests[split] for split in reads},
                "gate": self._gate() if axis.name == "runtime" else None,
                "tools": {tool: _installed(tool) for tool in axis.tools},
                **source,
            }
        )


def build_stage(stage: Stage, store_root: Path) -> tuple[Entry, bool]:
    """Build one stage into the store, or find it there; whether it was reused. Runs in a worker process.

    Raises:
        StageFailed: the axis or the parity gate refused, with the reason.
        Gone: the artifact that it is made from went away or was damaged meanwhile.
        OSError: the disk is full, read-only or broken.
    """
    store = Store(store_root)
    if entry := store.get(stage.key):
        return entry, True
    with store.building(stage.key):
        if entry := store.get(stage.key):
            return entry, True
        with store.scratch() as folder:
            source, target = folder / "source", folder / "target"
            target.mkdir()
            if stage.input_key:
                store.checkout(_given(store, stage), source)
            else:
                source = stage.folder
            begun = time.monotonic()
            axis = next(axis for axis in available(stage.plugins) if axis.name == stage.axis)
            try:
                axis.apply(stage.choice, source, target, stage.samples, stage.seed)
                checks = _gate(stage, source, target) if stage.gate else {}
            except Exception:
                _refuse_full_disk(folder, source)
                raise
            seconds = time.monotonic() - begun
            if stage.input_key:
                _given(store, stage)
            return store.put(stage.key, target, stage=stage.axis, seconds=seconds, checks=checks), False


def _given(store: Store, stage: Stage) -> Entry:
    """The artifact that a stage is made from: whole before the stage reads it, and afterwards."""
    entry = store.get(stage.input_key)
    if entry is None:
        raise Gone(f"the artifact that the stage {stage.axis} is made from went away or was damaged")
    return entry


def _refuse_full_disk(folder: Path, source: Path) -> None:
    """Raise what the disk says, or would say to as much again as the stage was given: libraries hide it."""
    files = source.rglob("*") if source.is_relative_to(folder) else ()
    if shutil.disk_usage(folder).free < sum(path.stat().st_size for path in files if path.is_file()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with (folder / "probe").open("wb", buffering=0) as stream:
        stream.write(bytes(_PROBE_BYTES))
        os.fsync(stream.fileno())


def _gate(stage: Stage, source: Path, target: Path) -> dict[str, int]:
    if folder_digest(source) == folder_digest(target):
        return {"parity_items": 0, "parity_equal": 0}
    from search.parity import check_parity

    return check_parity(source, target, str(stage.choice["name"]), stage.gate, stage.max_new_tokens)


@cache
def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
