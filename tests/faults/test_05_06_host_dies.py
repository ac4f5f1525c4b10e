"""Cases 5 and 6: a host is killed in the middle of a job; nobody comes back for it, or the host does."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hardware_profiles.agent.supervisor import GRACE_S
from tests.faults.bench import NEVER, TTL_S, Bench, asked, runs, until
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

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
