"""One search over two agents, each in a network namespace of its own, one of them slow and killed midway.

**Prediction, written before the first run.** Runners of ``slow`` are stopped and let go on by turns of 4 ms each
(``paced_runner.py``), so they work half of the time and everything that they compute takes **2.0 times** as long as on
``fast``. An answer of 10 ms or more takes more than two turns, and the median over 24
answers averages over where in a turn they begin. Stopping and going on takes some tens of microseconds of 4 ms. Devices
measure in turns on one machine, so they do not slow each other. Expected: the median over bundles of the ratio of both
devices' p50 within 15 % of 2.0, for bundles whose answers take 10 ms or more on ``fast``, where both devices measured
undisturbed by other work on the machine.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from hardware_profiles.agent.measure import ATTEMPTS
from hardware_profiles.messages import Measurement, Mode
from objectives.devices import seen_from
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.front import front_of
from spaces.canonical import file_digest
from tests.slow.namespaces import Board, session, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "inspection"
HOST = (sys.executable, "-m", "search.cli")
PREDICTED, WITHIN, LEAST_MS = 2.0, 0.15, 10.0
SPACE = """
schema: vlmfront.space/1
axes:
  model: {path: [models/inspection-s, models/inspection-l]}
  visual_tokens: {keep: [1.0, 0.25], method: uniform}
  quantization: {weights: [fp16, int4], group_size: {choices: [32], when: {quantization.weights: [int4]}}}
  prompt: {exemplars: 2}
  runtime: {name: openvino, threads: 1, inference_precision: f32}
"""
SEARCH = """
schema: vlmfront.search/1
name: two
task: {task}
space: space.yaml
devices: [fast, slow]
objectives: [accuracy, latency_p50_ms]
racing: false
finalists: {finalists}
budget: {trials}trials
items: 128
workers: 2
store: store
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two CPUs"),
]


class Bench:
    """Two paired devices and a search over them."""

    def __init__(self, folder: Path) -> None:
        self.fast = Board("fast", 1, "whole", folder)
        self.slow = Board("slow", 2, "half", folder)
        self.boards = (self.fast, self.slow)
        self.path = folder / "run"
        self._folder = folder
        self._output = folder / "output"

    @property
    def run(self) -> RunFolder:
        return RunFolder.open(self.path)

    def environment(self) -> dict[str, str]:
        return os.environ | {"XDG_CONFIG_HOME": str(self._folder / "config"), "OMP_NUM_THREADS": "1"}

    def call(self, *arguments: str) -> str:
        done = subprocess.run([*HOST, *arguments], env=self.environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, trials: int, *, finalists: bool) -> None:
        (self._folder / "models").symlink_to(EXAMPLE / "models")
        (self._folder / "space.yaml").write_text(SPACE)
        text = SEARCH.format(task=EXAMPLE / "task.yaml", trials=trials, finalists=str(finalists).lower())
        (self._folder / "search.yaml").write_text(text)

    @contextmanager
    def searching(self, *more: str) -> Iterator["subprocess.Popen[bytes]"]:
        asked = [*HOST, "search", str(self._folder / "search.yaml"), "--run", str(self.path), *more]
        with self._output.open("ab") as output:
            process = subprocess.Popen(asked, env=self.environment(), stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def finish(self, process: "subprocess.Popen[bytes]", seconds: float) -> str:
        assert process.wait(seconds) == 0, self.output()
        return self.output()

    def output(self) -> str:
        return self._output.read_text()

    def trials(self) -> Sequence[Trial]:
        return self.run.read_trials() if self.path.exists() else ()

    def events(self, device: str) -> list[str]:
        return [one.event for one in self.run.device_events() if one.device == device]

    def kill_midway(self, after: int) -> None:
        """Kill the slow agent while it measures a trial, once so many are finished; its runner goes with it."""
        wait_for(lambda: len(self.trials()) >= after, 600, f"{after} trials")
        before = {one["manifest"] for one in self.slow.runners()}
        wait_for(lambda: self._measures(before), 600, "the first measurement of a bundle on slow")
        runner = self.slow.runners()[-1]["pid"]
        assert len(session(runner)) >= 2  # it and its pacer
        self.slow.kill()
        wait_for(lambda: not session(runner), 5, "the end of the killed agent's runner")

    def _measures(self, before: set[str]) -> bool:
        last = self.slow.runners()[-1]
        return last["kind"] == "measure" and last["manifest"] not in before and len(session(last["pid"])) >= 2


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with ExitStack() as left:
        for board in made.boards:
            board.build(left)
            board.start()
            made.call("device", "add", board.name, *board.token())
        yield made


def started(measurement: Measurement | None) -> int:
    """How many runners a measurement started."""
    return len(measurement.processes) + len(measurement.retries) if measurement else 0


def check_nothing_twice(bench: Bench, board: Board, killed: int) -> None:
    """As many runners measured each bundle on a device as the run folder says, but for one job that died with it."""
    run = bench.run
    deployed = {file_digest(run.bundle(trial.number) / "manifest.json"): trial.deployed for trial in run.read_trials()}
    assert len(set(deployed.values())) == len(deployed)
    counted = Counter(deployed[one["manifest"]] for one in board.runners() if one["kind"] == "measure")
    recorded = Counter[str]()
    for one in run.read_references(board.name):
        recorded[run.read_trial(one.trial).deployed] += started(one.measurement)
    for bundle in deployed.values():
        for mode in ("provisional", "finalist"):
            recorded[bundle] += started(run.read_measurement(bundle, board.name, mode))
    more = counted - recorded
    assert not recorded - counted
    assert len(more) <= killed, more
    assert all(number <= ATTEMPTS for number in more.values()), more


def check_front(run: RunFolder, trials: Sequence[Trial], device: str) -> set[int]:
    """Compare a device's front with all pairs of its trials; the members' numbers."""
    found = front_of(run, trials, device)
    values = {}
    for trial in trials:
        figures = seen_from(trial, device).figures
        accuracy, ms = figures["accuracy"].value, figures["latency_p50_ms"].value
        assert accuracy is not None
        assert ms is not None
        values[trial.number] = (-accuracy, math.log(ms))
    exact = {
        one
        for one, mine in values.items()
        if not any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in values.values())
    }
    floors = (found.floors["accuracy"], math.log1p(found.floors["latency_p50_ms"]))

    def matches(kept: int, left: int) -> bool:
        return all(a <= b + floor for a, b, floor in zip(values[kept], values[left], floors, strict=True))

    members = {trial.number for trial in found.trials}
    assert members
    assert members <= exact
    assert all(any(matches(kept, left) for kept in members) for left in values.keys() - members)
    assert not any(matches(one, other) for one in members for other in members if one != other)
    return members


def check_ratio(run: RunFolder) -> None:
    """Of bundles that both devices measured undisturbed; each pair was measured right after one another."""
    ratios = []
    for bundle, mode in product({trial.deployed for trial in run.read_trials()}, get_args(Mode)):
        both = [run.read_measurement(bundle, name, mode) for name in ("fast", "slow")]
        fast, slow = (p50(one) if one and not disturbed(one) else 0.0 for one in both)
        print(f"{bundle[:8]} {mode}: {[one and round(p50(one), 2) for one in both]} ms, undisturbed: {fast > 0 < slow}")
        if fast >= LEAST_MS and slow:
            ratios.append(slow / fast)
    assert ratios, "nothing was measured undisturbed; run this where nothing else runs"
    assert statistics.median(ratios) == pytest.approx(PREDICTED, rel=WITHIN), ratios


def p50(measurement: Measurement) -> float:
    return statistics.median(timing.e2e_ms for timing in measurement.timings)


def disturbed(measurement: Measurement) -> bool:
    """Whether other work on this machine disturbed each attempt at one of its processes."""
    return any(process.disturbed_p50_ms for process in measurement.processes)


def test_a_device_is_killed_midway_and_comes_back(bench: Bench) -> None:
    bench.write(8, finalists=True)
    with bench.searching() as process:
        bench.kill_midway(after=3)
        wait_for(lambda: "lost" in bench.events("slow"), 120, "the search to miss it")
        bench.slow.start()
        output = bench.finish(process, 1500)
    trials = bench.trials()
    assert [trial.state for trial in trials] == ["complete"] * 8
    assert all(found.state == "measured" for trial in trials for found in trial.devices.values())
    for board, killed in ((bench.fast, 0), (bench.slow, 1)):
        check_front(bench.run, trials, board.name)
        check_nothing_twice(bench, board, killed)
    assert bench.events("fast") == ["opened"]
    assert bench.events("slow") == ["opened", "lost", "back", "interrupted"]
    for said in (
        "The device slow is lost: ",
        "The device slow is back",
        "The device slow was interrupted: it lost a job",
    ):
        assert said in output
    page = (bench.path / "report.html").read_text()
    for said in ("was lost: slow did not answer for 1", "came back", "was interrupted: it lost a job"):
        assert said in page
    check_picks(bench)
    check_ratio(bench.run)  # last, since of all this it alone wants a quiet machine


def check_picks(bench: Bench) -> None:
    """The most accurate trial within a time that on the slow device only its fastest keeps."""
    fronts = {board.name: front_of(bench.run, bench.trials(), board.name).trials for board in bench.boards}
    limit = 1.05 * min(map(own_p50, fronts["slow"]))
    picked = {}
    for name, members in fronts.items():
        asked = ("--device", name, "--max", f"latency_p50_ms={limit}", "--prefer", "accuracy", "--json")
        picked[name] = json.loads(bench.call("pick", str(bench.path), *asked))["trial"]
        within = [one for one in members if own_p50(one) <= limit]
        assert picked[name] == max(within, key=lambda one: one.figures["accuracy"].value or 0).number
    assert picked["fast"] != picked["slow"]


def own_p50(trial: Trial) -> float:
    """Of a trial as one device has it."""
    return trial.figures["latency_p50_ms"].value or math.inf


def test_what_a_device_that_stays_away_has_still_to_measure_is_measured_on_resume(bench: Bench) -> None:
    bench.write(4, finalists=False)
    with bench.searching() as process:
        bench.kill_midway(after=1)
        output = bench.finish(process, 900)
    waiting = [trial.number for trial in bench.trials() if trial.waits_for]
    assert waiting
    assert all(trial.waits_for == ("slow",) for trial in bench.trials() if trial.waits_for)
    many = "1 trial waits" if len(waiting) == 1 else f"{len(waiting)} trials wait"
    assert f"{many} for slow; --resume measures them once it is back." in output
    assert "still to be measured: trials " + ", ".join(map(str, waiting)) in (bench.path / "report.html").read_text()
    before = {trial.number: trial.devices["fast"] for trial in bench.trials()}
    bench.slow.start()
    with bench.searching("--resume") as process:
        output = bench.finish(process, 900)
    assert f"{many} for slow: it is there, so this comes first" in output
    assert f"Caught up on slow: {len(waiting)} of {many.rpartition(' ')[0]} measured that had waited for it" in output
    trials = bench.trials()
    assert len(trials) == 4
    assert all(found.state == "measured" for trial in trials for found in trial.devices.values())
    assert {trial.number: trial.devices["fast"] for trial in trials} == before
    for board, killed in ((bench.fast, 0), (bench.slow, 1)):
        check_front(bench.run, trials, board.name)
        check_nothing_twice(bench, board, killed)
    assert bench.events("slow") == ["opened", "lost", "opened", "interrupted"]
