"""Case 11: two hosts want the device at once. One has it, the other knows its place and is served afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.messages import JobFailed
from tests.faults.bench import NEVER, Bench, asked, until
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

THEIRS = "00000000-0000-4000-8000-000000000002"


def test_case_11_of_two_hosts_one_is_served_and_then_the_other(
    bench: Bench, host: Host, other: Host, bundle: Path, image: Path
) -> None:
    with ExitStack() as stack:
        racers = {
            name: stack.enter_context(one.process(bundle, image, f"hold for {name}"))
            for name, one in (("host", host), ("other", other))
        }
        for racer in racers.values():
            racer.go_on()
        winner = bench.executed().question.removeprefix("hold for ")
        first, second = racers.pop(winner), next(iter(racers.values()))
        assert first.hear("opened")
        assert second.hear("waiting") == "bench is taken; place 1 in its queue"
        bench.go()
        assert first.hear("answered")
        assert len(bench.executions()) == 1  # it is the first's until that gives it back
        first.go_on()
        assert first.hear("closed")
        assert second.hear("opened")
        assert second.hear("answered").split()[0] == str(bench.executed(2).pid)
        second.go_on()
        assert second.hear("closed")
    until(lambda: len({one.question for one in bench.executions()}) == 2)
    assert bench.audit("stale epoch") == []


def test_case_11_a_host_whose_lease_another_took_says_farewell_without_queueing(
    bench: Bench, line: Proxy, host: Host, other: Host, bundle: Path, image: Path, aside: ThreadPoolExecutor
) -> None:
    stop = Event()
    with host.open() as device, other.calls(bench) as call:
        device.answer(bundle, asked(image), cancel=NEVER)
        line.partition()
        bench.kill()
        bench.start()
        assert call.take(THEIRS).epoch
        line.heal()
        waits = aside.submit(device.answer, bundle, asked(image, "in vain"), cancel=stop)
        until(lambda: device._lease._held and device._lease._held.epoch is None)
        stop.set()
        with pytest.raises(Cancelled):
            waits.result(10)
        farewell = aside.submit(device.close)
        try:
            farewell.result(10)
        finally:
            call("DELETE", f"/v1/leases/{THEIRS}")
    assert [one.question for one in bench.executions()] == ["what ?"]


def test_case_11_a_search_of_several_devices_gives_up_one_that_another_host_has(
    bench: Bench, line: Proxy, host: Host, other: Host, bundle: Path, image: Path
) -> None:
    with host.open(patience_s=1.0, queues=False) as device, other.calls(bench) as call:
        line.partition()
        bench.kill()
        bench.start()
        assert call.take(THEIRS).epoch
        line.heal()
        with pytest.raises(JobFailed, match="DEVICE_LOST: bench is taken by another host"):
            device.answer(bundle, asked(image), cancel=NEVER)
        device.close()
        begun = time.monotonic()
        with pytest.raises(JobFailed, match="taken by another host"), host.open(opening_s=0.0, queues=False):
            pass
        assert time.monotonic() - begun < 5
        third = "00000000-0000-4000-8000-000000000003"
        assert call.take(third).position == 1  # nobody else is left in the queue
    assert bench.executions() == []
