"""Builds one candidate through the store and scores it through its runtime; puts down what that took.

Seconds are processor time of the process that does the work, which runs on one thread: what wall time would be on an
idle machine. The process that builds is warm (it has imported its libraries), as a search's is but for its first trial.
The one that scores is fresh, so that ``load_s`` is all that comes before its first counted answer: interpreter,
libraries, bundle, the check of batches. A stage's seconds are put down when it is built, once for all candidates that
share it.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from hardware_profiles.agent.supervisor import Enough, run_job
from hardware_profiles.bundle import open_bundle
from hardware_profiles.eviction import evict
from hardware_profiles.messages import Answered, Job, JobFailed, Request
from hardware_profiles.store import Entry, Gone, Store
from objectives.records import ScoredAnswer
from objectives.trial import StageCost
from record.journal import Journal
from record.meter import Meter
from record.settings import Setup
from record.tree import Needed
from search.bind import bind
from search.build import Stage
from search.executors import Builder
from search.measuring import deployed
from search.scoring import Scorer, requests, scored
from spaces.candidate import Candidate
from spaces.errors import StageFailed

RIGHT = 0.5  # the score from which on an item counts as answered rightly
_NO_LIMIT = 1 << 62
_ATTEMPTS = 3
_HOLDOUT = "holdout:"


class Rows:
    """Records candidates. May be called from several threads, each with a builder of its own."""

    def __init__(self, setup: Setup, out: Path, folder: Path) -> None:
        self.rows = Journal(folder / "rows.jsonl")
        self.stages = Journal(folder / "stages.jsonl")
        self.store = Store(out / "store")
        self._setup = setup
        self._bundles = out / "bundles"
        self._bundles.mkdir(exist_ok=True)
        self._lock = Lock()
        self._known: dict[str, str] = {one["key"]: one["reason"] for one in self.stages.records}
        self._scorer = Scorer(setup.task, setup.judged["search"], None, setup.recipe.seed)
        self._holdout = requests(setup.judged["holdout"], _HOLDOUT)

    def tidy(self, needed: Needed) -> None:
        """Remove what a kill has left in the store: artifacts whose cost is not on record, or that no row needs."""
        held = [path.stem for path in (self.store.root / "entries").glob("*.json")]
        self.forget(key for key in held if key not in self._known or key not in needed)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove artifacts from the store; bundles keep what they are made of."""
        with self._lock:
            for key in keys:
                self.store.entry_path(key).unlink(missing_ok=True)
            evict(self.store, _NO_LIMIT)  # also removes files that no artifact names

    def warm(self, planned: Sequence[Stage], builder: Builder) -> None:
        """Have the builder's process import what stages need. ``planned``: a candidate's, of another seed."""
        for stage in planned:
            builder.run(stage)
        self.forget(stage.key for stage in planned)

    def record(self, candidate: Candidate, planned: Sequence[Stage], builder: Builder) -> None:
        """Build, score and put on record one candidate.

        Raises:
            Interrupted, OSError: nothing of it is on record but the stages that were built.
        """
        begun = time.monotonic()
        row: dict[str, Any] = {"candidate": candidate.id, "values": dict(candidate.values), "state": "ok", "reason": ""}
        keys: list[str] = []
        try:
            entry = self._built(planned, builder, keys)
            bundle = self._bundle(candidate, planned, entry)
            try:
                row |= self._scored(bundle)
            except JobFailed:  # a fault that does not come twice was the machine's
                row |= self._scored(bundle)
        except StageFailed as error:
            row |= {"state": "failed", "reason": str(error)}
        except JobFailed as error:
            row |= {"state": "failed", "reason": f"{error.fault}: {error.reason}"}
        self.rows.add(row | {"stages": keys, "wall_s": round(time.monotonic() - begun, 3)})

    def _built(self, planned: Sequence[Stage], builder: Builder, keys: list[str]) -> Entry:
        """The last stage's artifact; ``keys`` gets those of the stages up to the end, or up to the one that failed."""
        for _ in range(_ATTEMPTS):
            keys.clear()
            try:
                for stage in planned:
                    keys.append(stage.key)
                    entry = self._stage(stage, builder)
                return entry
            except Gone as error:
                reason = str(error)
        raise OSError(f"{reason}, {_ATTEMPTS} times in a row; look after the disk that the store is on")

    def _stage(self, stage: Stage, builder: Builder) -> Entry:
        if reason := self._known.get(stage.key):
            raise StageFailed(reason)
        before, begun = builder.cpu_s, time.monotonic()
        try:
            entry, reused = builder.run(stage)
        except StageFailed as error:
            spent = builder.cpu_s - before
            self._note(stage, spent if spent > 0 else time.monotonic() - begun, str(error))  # its process may be gone
            raise
        if not reused:
            self._note(stage, builder.cpu_s - before, "")
        return entry

    def _note(self, stage: Stage, seconds: float, reason: str) -> None:
        if stage.key not in self._known:  # what was built before, and removed, keeps its cost
            self.stages.add({"key": stage.key, "stage": stage.axis, "cpu_s": round(seconds, 3), "reason": reason})
            self._known[stage.key] = reason

    def _bundle(self, candidate: Candidate, planned: Sequence[Stage], entry: Entry) -> Path:
        target = self._bundles / candidate.id
        costs = [StageCost(name=stage.axis, key=stage.key, seconds=0.0, reused=True) for stage in planned]
        try:
            bind(target, candidate, entry, self.store, self._setup.space, self._setup.task, costs)
        except Gone as error:
            raise OSError(f"{error}; look after the disk that the store is on") from None
        return target

    def _scored(self, bundle: Path) -> dict[str, Any]:
        meter = Meter()
        texts: dict[str, str] = {}
        tokens: list[int] = []

        def ask(asked: Sequence[Request], _: Enough) -> Answered:
            job = Job(kind="answer", bundle=str(bundle), requests=(*asked, *self._holdout))
            result = run_job(job, enough=meter.enough, heard=meter.heard)
            assert isinstance(result, Answered)
            texts.update({answer.id: answer.text for answer in result.answers})
            tokens.extend(answer.tokens for answer in result.answers)
            return result

        found = self._scorer.run(ask)
        held = self._setup.judged["holdout"]
        others = scored(held, [texts[_HOLDOUT + sample.id] for sample in held], self._setup.task)
        manifest = open_bundle(bundle, verify=False)
        return {
            "deployed": deployed(manifest.manifest),
            "size_bytes": manifest.size_bytes,
            "load_s": round(meter.load_s, 3),
            "item_s": round(meter.item_s(len(found.answers)), 6),
            "search": packed(found.answers),
            "holdout": packed(others),
            "tokens": round(statistics.mean(tokens), 3),
            "scoring": dict(found.how),
        }


def packed(answers: Sequence[ScoredAnswer]) -> str:
    """Right or wrong of each item, in hexadecimal digits of `numpy.packbits`."""
    return np.packbits([answer.score >= RIGHT for answer in answers]).tobytes().hex()
