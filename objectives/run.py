"""The run folder: where a search keeps settings, trials, answers and measurements, readable while it is written."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hardware_profiles.messages import Measurement, Mode
from hardware_profiles.store import write_atomic
from objectives.folders import new_folder, refuse_read_only
from objectives.lines import append_line, lines
from objectives.records import (
    ANSWER,
    BASELINES,
    EVENT,
    MEASUREMENT,
    REFERENCE,
    USE,
    Baseline,
    DeviceEvent,
    HoldoutUse,
    Reference,
    ScoredAnswer,
    trial_as_json,
    trial_from_json,
)
from objectives.settings import Shape, differences
from objectives.trial import Trial
from spaces.canonical import read_json
from spaces.errors import BadInput

SCHEMA = "vlmfront.run/1"
_FOLDERS = ("trials", "answers", "measurements", "bundles")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Files appear whole or not at all; one process writes, any number may read.

    Attributes:
        path: the folder.
        settings: ``run.json``: the settings as resolved when the run began.
    """

    path: Path
    settings: Mapping[str, Any]

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any]) -> "RunFolder":
        """Make a new run folder, or none at all.

        Raises:
            BadInput: there is something at ``path`` already, or its parent cannot be written to.
        """
        if path.exists():
            raise BadInput(_occupied(path, settings))
        complete = {"schema": SCHEMA, "started": time.time(), **settings}
        with new_folder(path) as draft:
            for name in _FOLDERS:
                (draft / name).mkdir()
            write_atomic(draft / "run.json", json.dumps(complete, indent=1, ensure_ascii=False, allow_nan=False))
        return cls(path, complete)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run, finished or still being written.

        Raises:
            BadInput: it is no run folder, one of another schema, or a setting is damaged.
        """
        try:
            settings = read_json((path / "run.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise BadInput(f"{path}: this is no run folder, it has no run.json.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput(f"{path / 'run.json'}: cannot be read ({error}).") from None
        if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
            raise BadInput(f"{path / 'run.json'}: expected a run of the schema {SCHEMA}.")
        try:
            Shape.model_validate(settings)
        except ValidationError as error:
            raise _damaged(path / "run.json", error) from None
        return cls(path, settings)

    @classmethod
    def resume(cls, path: Path, settings: Mapping[str, Any]) -> "RunFolder":
        """An existing run, to be carried on with the same space, task and search settings; the budget may differ.

        Raises:
            BadInput: it is no run folder, its settings differ, or it cannot be written to.
        """
        run = cls.open(path)
        changed = differences(run.settings, settings)
        if changed:
            raise BadInput(
                f"{path}: this run was started with another {' and '.join(changed)}; "
                "give the new search a name of its own with --run."
            )
        try:
            refuse_read_only(path)
        except OSError as error:
            raise BadInput(f"{path}: the run folder cannot be written to ({error.strerror}).") from None
        return run

    @staticmethod
    def refuse_occupied(path: Path) -> None:
        """Raise :class:`BadInput` where something is in the place of a new run."""
        if path.exists():
            raise BadInput(_occupied(path, None))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the right to write this run: one process searches in a run folder at a time.

        Raises:
            BadInput: another process holds it.
        """
        with (self.path / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"{self.path}: another search is writing this run; wait for it or use --run.") from None
            yield

    def tidy(self) -> None:
        """Remove what a killed search left half-made. The caller holds the right to write."""
        for folder in self.path.glob("references/*/"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            path.unlink(missing_ok=True)
        finished = {str(trial.number) for trial in self.read_trials()}
        for bundle in (self.path / "bundles").iterdir():
            if bundle.name not in finished:
                shutil.rmtree(bundle, ignore_errors=True)

    @property
    def name(self) -> str:
        """The run's name: that of its settings, else of its folder."""
        return str(self.settings.get("name") or self.path.name)

    @property
    def journal(self) -> Path:
        """Where the Optuna study is kept."""
        return self.path / "study.journal"

    def bundle(self, number: int) -> Path:
        """Where the bundle of a trial is kept, if it is."""
        return self.path / "bundles" / str(number)

    def write_trial(self, trial: Trial) -> None:
        write_atomic(self._file("trials", trial.number, "json"), trial_as_json(trial))

    def read_trials(self) -> tuple[Trial, ...]:
        """All trials, by number.

        Raises:
            BadInput: a trial's file is damaged.
        """
        return tuple(_read_trial(path) for path in sorted((self.path / "trials").glob("[0-9]*.json")))

    def read_trial(self, number: int) -> Trial:
        """One trial.

        Raises:
            BadInput: there is none of that number, or its file is damaged.
        """
        path = self._file("trials", number, "json")
        if not path.is_file():
            raise BadInput(f"{self.path}: there is no trial {number} in this run.")
        return _read_trial(path)

    def write_answers(self, number: int, answers: Sequence[ScoredAnswer], device: str = "") -> None:
        """Keep a trial's answers; those of one ``device`` apart, where they are not the trial's own."""
        rows = [json.dumps(ANSWER.dump_python(answer), ensure_ascii=False, allow_nan=False) for answer in answers]
        ending = f"{device}.jsonl" if device else "jsonl"
        write_atomic(self._file("answers", number, ending), "".join(f"{row}\n" for row in rows))

    def read_answers(self, number: int, device: str = "") -> tuple[ScoredAnswer, ...]:
        """A trial's answers in the order of the split, those of ``device`` where it has its own; none if unscored."""
        path = self._file("answers", number, f"{device}.jsonl")
        path = path if device and path.is_file() else self._file("answers", number, "jsonl")
        if not path.is_file():
            return ()
        with path.open("rb") as stream:
            return tuple(ANSWER.validate_json(line, strict=True) for line in stream)

    def write_measurement(self, deployed: str, device: str, measurement: Measurement) -> None:
        """Keep what a device measured of all trials that deploy the same; a finalist's stands beside the first."""
        text = json.dumps(MEASUREMENT.dump_python(measurement), ensure_ascii=False, allow_nan=False)
        write_atomic(self._measurement(deployed, device, measurement.mode), text)

    def read_measurement(self, deployed: str, device: str, mode: Mode | None = None) -> Measurement | None:
        """The raw measurement of a bundle on a device, the finalist's if there is one; null if there is none.

        With ``mode`` only one that was made so.
        """
        for made in (mode,) if mode else ("finalist", "provisional"):
            path = self._measurement(deployed, device, made)
            if path.is_file():
                return MEASUREMENT.validate_json(path.read_bytes(), strict=True)
        return None

    def log_reference(self, number: int, device: str, measurement: Measurement) -> None:
        """Append a repeated measurement of a device's reference trial: what a p50 does when nothing changes."""
        reference = Reference(trial=number, device=device, time=time.time(), measurement=measurement)
        append_line(self._references, json.dumps(REFERENCE.dump_python(reference), ensure_ascii=False, allow_nan=False))

    def read_references(self, device: str) -> tuple[Reference, ...]:
        """The repeated measurements of a device's latest reference trial, oldest first; torn lines are passed over."""
        found = [one for one in lines(self._references, REFERENCE) if one.device == device]
        return tuple(one for one in found if one.trial == found[-1].trial)

    def log_device(self, event: DeviceEvent) -> None:
        """Put on record that a device was opened, lost or came back."""
        append_line(self._events, json.dumps(EVENT.dump_python(event), ensure_ascii=False, allow_nan=False))

    def device_events(self) -> tuple[DeviceEvent, ...]:
        """What happened to the run's devices, oldest first; torn lines are passed over."""
        return tuple(lines(self._events, EVENT))

    @property
    def _references(self) -> Path:
        return self.path / "measurements" / "references.jsonl"

    @property
    def _events(self) -> Path:
        return self.path / "devices.jsonl"

    def _measurement(self, deployed: str, device: str, mode: str) -> Path:
        return self.path / "measurements" / f"{deployed[:16]}@{device}.{mode}.json"

    def write_baselines(self, baselines: Sequence[Baseline]) -> None:
        text = json.dumps(BASELINES.dump_python(tuple(baselines)), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.path / "baselines.json", text)

    def read_baselines(self) -> tuple[Baseline, ...]:
        """The baselines; none where none are written yet.

        Raises:
            BadInput: their file is damaged.
        """
        path = self.path / "baselines.json"
        try:
            return BASELINES.validate_json(path.read_bytes(), strict=True) if path.is_file() else ()
        except ValidationError as error:
            raise _damaged(path, error) from None

    def log_holdout(self, purpose: str, trials: Sequence[int]) -> HoldoutUse:
        """Put a use of the holdout split on record before it happens, and say whether it is a repeat."""
        use = HoldoutUse(purpose=purpose, trials=tuple(trials), repeat=bool(self.holdout_uses()), time=time.time())
        append_line(self.path / "holdout.jsonl", json.dumps(USE.dump_python(use), ensure_ascii=False))
        return use

    def holdout_uses(self) -> tuple[HoldoutUse, ...]:
        """Every use on record, oldest first; a line that a crash has torn counts as a use of unknown purpose."""
        path = self.path / "holdout.jsonl"
        return tuple(map(_use, path.read_bytes().splitlines())) if path.is_file() else ()

    def _file(self, folder: str, number: int, ending: str) -> Path:
        return self.path / folder / f"{number:05d}.{ending}"


def _occupied(path: Path, settings: Mapping[str, Any] | None) -> str:
    try:
        found = RunFolder.open(path).settings
        changed = differences(found, found if settings is None else settings)
    except BadInput:
        return f"{path}: something that is no run is there already; choose another name with --run."
    if changed:
        return f"{path}: this run belongs to another {' and '.join(changed)}; choose another name with --run."
    return f"{path}: this run exists already; carry it on with --resume or choose another name with --run."


def _read_trial(path: Path) -> Trial:
    try:
        return trial_from_json(path.read_bytes())
    except ValidationError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: ValidationError) -> BadInput:
    first = error.errors(include_url=False)[0]
    field_name = ".".join(str(part) for part in first["loc"]) or "the file"
    return BadInput(f"{path}: {field_name} is not as it should be ({first['msg']}); restore the file.")


def _use(line: bytes) -> HoldoutUse:
    try:
        return USE.validate_json(line, strict=True)
    except ValidationError:
        return HoldoutUse(purpose="unknown (the record is damaged)", trials=(), repeat=False, time=0.0)
