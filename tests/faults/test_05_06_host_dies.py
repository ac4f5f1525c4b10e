"""Cases 5 and 6: a host is killed in the middle of a job; nobody comes back for it, or the host does."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hardware_profiles.agent.supervisor import GRACE_S
from objectives.run import RunFolder
from objectives.trial import DeviceResult
from search.fleet import Fleet
from search.gate import Gate
from search.measuring import Measuring
from search.references import References
from spaces.sample import Sample
from tests.faults.bench import NEVER, TTL_S, Bench, asked, runs, until
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import die

LEASE = "00000000-0000-4000-8000-000000000001"
SLACK_S = 1.5  # a busy machine, and the agent's own bookkeeping


def test_case_05_the_device_of_a_dead_host_is_free_within_the_ttl(
    bench: Bench, host: Host, other: Host, bundle: Path, image: Path
) -> None:
    with host.process(bundle, image, "hold") as dies:
        dies.go_on()
        runner = bench.executed()
        assert runs(runner.pid)
        with other.calls(bench) as call:
            assert call.take(LEASE).position == 1
            dies.kill()
            killed = time.monotonic()
            until(lambda: call.take(LEASE).epoch is not None)
            free_s = time.monotonic() - killed
            until(lambda: not runs(runner.pid))
            gone_s = time.monotonic() - killed
    assert TTL_S / 2 < free_s < TTL_S + SLACK_S
    assert gone_s < TTL_S + GRACE_S + SLACK_S
    (job,) = (bench.state / "jobs").iterdir()
    with host.calls(bench) as call:
        assert call.fault(job.name) == {"fault": "STALE_EPOCH", "reason": "the lease ended before the job did"}


def test_case_06_a_host_that_restarts_finds_the_job_that_it_began(
    bench: Bench, line: Proxy, host: Host, bundle: Path, image: Path, aside: ThreadPoolExecutor
) -> None:
    with host.process(bundle, image, "hold", owner="run-7", ttl_s=60.0) as dies:
        dies.go_on()
        first = bench.executed()
        dies.kill()
    line.cut()
    with host.open(owner="run-7") as again:
        epoch = again._lease.epoch(again._patience(NEVER))
        result = aside.submit(again.answer, bundle, asked(image, "hold"), cancel=NEVER)
        until(lambda: line.connections > 1)
        assert runs(first.pid)
        bench.go()
        assert result.result(30).answers[0].text.split()[0] == str(first.pid)
        assert epoch == 1
    assert bench.executions() == [first]


def test_case_06_a_result_that_nobody_kept_is_still_there(bench: Bench, host: Host, bundle: Path, image: Path) -> None:
    with host.process(bundle, image, "what ?", owner="run-7", ttl_s=60.0) as dies:
        dies.go_on()
        dies.hear("opened")
        text = dies.hear("answered")
        dies.kill()
    with host.open(owner="run-7") as again:
        assert again.answer(bundle, asked(image), cancel=NEVER).answers[0].text == text
        assert len(bench.executions()) == 1
        again.answer(bundle, asked(image), cancel=NEVER)  # asked anew once it was returned: another job
        assert len(bench.executions()) == 2


@contextmanager
def referring(run: RunFolder, image: Path) -> Iterator[References]:
    """The references of a run, whose host is killed after what it does with them."""
    fleet = Fleet(("bench",), Gate(), threading.Event(), "run-7")
    fleet.open()
    items = [Sample(id="0", image=image, question="what ?", answers=("red",))]
    try:
        yield References(run, Measuring(run=run, fleet=fleet, items=items))
    finally:
        for device in fleet.devices.values():
            die(device)  # type: ignore[arg-type]


def test_case_06_a_reference_that_was_recorded_is_not_recorded_again(
    bench: Bench, host: Host, bundle: Path, image: Path, tmp_path: Path
) -> None:
    run = RunFolder.create(tmp_path / "run", {"devices": {"bench": {}}})
    shutil.copytree(bundle, run.bundle(0))
    trial: Any = SimpleNamespace(number=0, state="complete", devices={"bench": DeviceResult(state="measured")})
    with host.at_home():
        with referring(run, image) as references:
            assert references.due(trial, 1) == {"bench": 3}
            references.measure({"bench": 2})
        for _ in range(2):
            with referring(run, image) as references:
                references.measure({"bench": 1})
    kept = [one.measurement.processes[0].first_ms for one in run.read_references("bench")]
    assert len(kept) == len(set(kept)) == 4
