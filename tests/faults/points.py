"""Fault points of a small search: hit one, look at what is left, go on to the end, and look again."""

import fcntl
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hardware_profiles.bundle import open_bundle
from search.study import NAME
from tests.faults.inject import Plan

LIMIT_S = 120.0
TRIALS = 3
ROWS = 6
AXES: dict[str, Any] = {
    "model": {"path": ["models/a"]},
    "runtime": {"name": "torch"},
    "prompt": {"template": ["{question}", "what colour : {question}"], "hint": [False, True]},
}


@dataclass
class Tally:
    """What a sweep has hit: changes by kind and by place, and the trials that were finished at the time."""

    kinds: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    finished: Counter[int] = field(default_factory=Counter)

    def add(self, last: str, finished: int) -> None:
        kind, place = last.split()[:2]
        self.kinds[kind] += 1
        self.places[f"{kind} {place}"] += 1
        self.finished[finished] += 1

    def __str__(self) -> str:
        lines = [f"{sum(self.kinds.values())} points: {dict(self.kinds)}", f"finished trials: {dict(self.finished)}"]
        return "\n".join([*lines, *(f"  {number:4}  {place}" for place, number in self.places.most_common())])


class Points:
    """Searches of one project, each in a folder of its own."""

    def __init__(self, config: Path, server: "subprocess.Popen[str]") -> None:
        self._config = config
        self._server = server

    def fresh(self, name: str, **fields: Any) -> Path:
        """A folder with a search file of its own, so with its own store and run; ``fields`` replace those in it."""
        folder = self._config.parent / "points" / name
        folder.mkdir(parents=True)
        document = yaml.safe_load(self._config.read_text())
        document |= {part: str(self._config.parent / f"{part}.yaml") for part in ("task", "space")} | fields
        (folder / "search.yaml").write_text(yaml.safe_dump(document))
        (folder / "tmp").mkdir()
        return folder

    def run(self, folder: Path, plan: Plan | None = None, *verb: str) -> tuple[int | None, str]:
        """Search, or do what ``verb`` says, under a plan; exit code (null: it hung) and what stderr has."""
        run = folder / "run"
        resume = ["--resume"] if (run / "run.json").exists() else []
        order = {
            "arguments": list(verb) or ["search", str(folder / "search.yaml"), "--run", str(run), *resume],
            "plan": asdict(plan) if plan else None,
            "stdout": str(folder.with_name(f"{folder.name}.out")),
            "stderr": str(folder.with_name(f"{folder.name}.err")),
            "tmp": str(folder / "tmp"),
            "limit_s": LIMIT_S,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        code = json.loads(self._server.stdout.readline())["code"]
        return code, Path(str(order["stderr"])).read_text()

    def changes(self, folder: Path) -> list[str]:
        """The changes of a whole search, in order."""
        plan = Plan(root=str(folder), log=str(folder) + ".log")
        code, said = self.run(folder, plan)
        assert code == 0, said
        check_whole(folder)
        return Path(plan.log).read_text().splitlines()

    def hit(self, folder: Path, mode: Literal["kill", "full"], at: int, error: int = 28) -> tuple[str, int]:
        """Have a search die or run out of disk at a change, carry it on; the change, and how many trials were done."""
        plan = Plan(root=str(folder), log=str(folder) + ".log", mode=mode, at=at, error=error)
        code, said = self.run(folder, plan)
        changes = Path(plan.log).read_text().splitlines()
        assert len(changes) >= at, f"the search ended after {len(changes)} changes"
        if mode == "kill":
            assert code == -9, (code, said)
            wait_for_worker(folder)
        else:
            assert code == 1, (code, said)
            assert said.startswith("vlmfront: "), said
            assert len(said.splitlines()) == 1, said
        known = finished(folder)
        code, said = self.run(folder)
        assert code == 0, said
        assert said == ""
        check_whole(folder)
        after = finished(folder)
        assert {name: after.get(name) for name in known} == known
        return changes[at - 1], len(known)


def wait_for_worker(folder: Path) -> None:
    """The worker of a killed search is forked here, not started anew, and holds the run's lock until it too is gone."""
    if (folder / "run" / "lock").exists():
        with (folder / "run" / "lock").open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)


def finished(folder: Path) -> dict[str, Any]:
    """Every finished trial: its record, its answers and its measurement, by file name."""
    run, found = folder / "run", {}
    for path in (run / "trials").glob("[0-9]*.json"):
        record = json.loads(path.read_bytes())
        if record["state"] != "failed":
            found[path.name] = (
                record,
                (run / "answers" / f"{path.stem}.jsonl").read_bytes(),
                json.loads((run / "measurements" / f"{record['deployed'][:16]}@local.provisional.json").read_bytes()),
            )
    return found


def check_whole(folder: Path) -> None:
    """The finished run and its store are as if nothing had happened. Reads files as they are, without our readers."""
    run, store = folder / "run", folder / "store"
    trials = [json.loads(path.read_bytes()) for path in sorted((run / "trials").glob("[0-9]*.json"))]
    assert [trial["state"] for trial in trials] == ["complete"] * TRIALS, [trial["reason"] for trial in trials]
    assert len({trial["candidate_id"] for trial in trials}) == TRIALS
    told = optuna.load_study(
        study_name=NAME, storage=JournalStorage(JournalFileBackend(str(run / "study.journal")))
    ).get_trials(deepcopy=False)
    assert not [one.number for one in told if one.state is TrialState.RUNNING]
    complete = {one.number: one for one in told if one.state is TrialState.COMPLETE}
    assert sorted(complete) == [trial["number"] for trial in trials]
    for trial in trials:
        one = complete[trial["number"]]
        assert one.user_attrs["candidate"] == trial["candidate_id"]
        assert one.values == [trial["figures"][name]["value"] for name in ("accuracy", "latency_p50_ms")]
        bundle = open_bundle(run / "bundles" / str(trial["number"]))
        assert dict(bundle.manifest.candidate) == trial["candidate"]
    assert {path.name for path in (run / "bundles").iterdir()} == {str(trial["number"]) for trial in trials}
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]
    assert (run / "report.html").stat().st_size > 100_000
    check_store(store)


def check_store(store: Path) -> None:
    """Every entry is readable and has its files; every file is what its name says."""
    entries = [json.loads(path.read_bytes()) for path in (store / "entries").glob("*.json")]
    assert entries
    for entry in entries:
        for name, sha in entry["files"].items():
            content = (store / "blobs" / sha[:2] / sha).read_bytes()
            assert hashlib.sha256(content).hexdigest() == sha, name


@contextmanager
def points(config: Path) -> Iterator[Points]:
    """The points of a project, with a process to run them in."""
    for split in ("train", "calibration", "search", "holdout"):
        rows = (config.parent / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (config.parent / f"{split}.jsonl").write_text("".join(rows[:ROWS]))
    command = [sys.executable, str(Path(__file__).with_name("server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield Points(config, server)
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(LIMIT_S)
