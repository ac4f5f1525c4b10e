import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.exchange import Asked
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.devices import lease
from hardware_profiles.messages import JobFailed, Request
from hardware_profiles.wire import WireJob
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import NEVER, Agent, Open, die, finish, measurement, wait_for


@pytest.mark.parametrize("lost", ["/v1/leases", "/v1/jobs", "events", "acknowledged", "/v1/hello"])
def test_a_lost_reply_makes_nothing_happen_twice(  # case 4
    agent: Agent, line: Proxy, start: Open, bundle: Path, asked: tuple[Request, ...], lost: str
) -> None:
    once = [True]

    def lose(call: Asked) -> None:
        if lost in call.path and once:
            once.clear()
            line.lose_next_reply()

    agent.script.before = lose
    device = start()
    assert device.measure(bundle, asked, cancel=NEVER) == measurement()
    device.close()
    assert not once
    assert agent.script.executions == 1
    assert len(agent.script.acknowledged) == 1


def test_a_host_that_restarts_finds_its_job_and_its_result(  # case 6
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    killed = start(owner="run-7")
    killed.measure(bundle, asked, cancel=NEVER)
    killed.measure(bundle, asked, cancel=NEVER)  # kept by nobody: the host dies here, with no farewell
    die(killed)
    epoch = agent.script.epoch
    again = start(owner="run-7")
    assert again.measure(bundle, asked, cancel=NEVER) == measurement()
    assert agent.script.executions == 2
    assert agent.script.epoch == epoch
    again.measure(bundle, asked, cancel=NEVER)
    assert agent.script.executions == 3
    other = start(owner="run-8", waiting=lambda _: agent.do(agent.script.expire))
    other.measure(bundle, asked, cancel=NEVER)
    assert agent.script.executions == 4


def test_a_job_that_runs_is_found_again_too(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    agent.script.runs = lambda _: [("phase", {"phase": "load"})]
    stop = threading.Event()
    killed = start(owner="run-7")
    killed._cancel = lambda job: None  # type: ignore[method-assign]  # a host that is killed cancels nothing

    def work() -> None:
        with pytest.raises(Cancelled):
            killed.measure(bundle, asked, cancel=stop)

    died = threading.Thread(target=work)
    died.start()
    wait_for(lambda: agent.script.count("GET", "events"))
    stop.set()
    died.join()
    die(killed)
    again = start(owner="run-7")
    threading.Timer(0.3, agent.do, (lambda: finish(agent),)).start()
    assert again.measure(bundle, asked, cancel=NEVER) == measurement()
    assert agent.script.executions == 1


def test_a_lease_that_ran_out_is_taken_anew_and_the_job_submitted_again(  # case 10
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    device = start()
    runs = agent.script.runs
    agent.script.runs = lambda _: []

    def lose() -> None:
        wait_for(lambda: agent.script.count("GET", "events"))
        agent.script.runs = runs
        agent.do(agent.script.expire)

    threading.Thread(target=lose).start()

    assert device.measure(bundle, asked, cancel=NEVER) == measurement()
    assert agent.script.executions == 2
    assert "STALE_EPOCH: bench no longer takes epoch 1" in caplog.text
    assert agent.script.epoch > 1


def test_a_lease_that_is_lost_again_and_again_ends_in_a_fault(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()

    def stale(call: Asked) -> None:
        if call.method == "PUT" and "jobs" in call.path:
            agent.script.expire()

    agent.script.before = stale
    with pytest.raises(JobFailed, match="gave its lease to others") as told:
        device.measure(bundle, asked, cancel=NEVER)
    assert told.value.fault == "STALE_EPOCH"
    assert agent.script.executions == 0


def test_the_last_result_is_acknowledged_under_the_epoch_that_a_restarted_agent_gives(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()
    device.measure(bundle, asked, cancel=NEVER)
    jobs = list(agent.script.jobs)
    agent.do(agent.script.expire)
    device.close()
    assert agent.script.acknowledged == jobs
    assert agent.script.line == []


def test_a_farewell_ends_though_every_epoch_is_refused(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()
    device.measure(bundle, asked, cancel=NEVER)

    def stale(call: Asked) -> None:
        if "acknowledged" in call.path:
            agent.script.expire()

    agent.script.before = stale
    device.close()
    assert agent.script.count("PUT", "acknowledged") == 2
    assert agent.script.acknowledged == []


def test_the_second_host_waits_with_its_place(agent: Agent, start: Open) -> None:  # case 11
    first, told = start(), []

    def hear(text: str) -> None:
        told.append(text)
        threading.Timer(0.2, first.close).start()

    second = start(waiting=hear)
    assert told == ["bench is taken; place 1 in its queue"]
    assert agent.script.epoch == 2
    with pytest.raises(Cancelled):
        start(cancel=(stop := threading.Event()), waiting=lambda _: stop.set())
    second.close()


def test_the_lease_is_renewed_while_nobody_asks(agent: Agent, start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease.DeviceLease.__init__, "__defaults__", (0.3,))
    start()
    wait_for(lambda: agent.script.count("PUT", "leases") >= 4)


@pytest.mark.parametrize(("times", "works"), [(2, True), (9, False)])
def test_a_job_that_the_device_lost_is_queued_again(  # cases 7 and 8 from here
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], times: int, works: bool
) -> None:
    fault = {"fault": "DEVICE_LOST", "reason": "the agent restarted before the job ended"}

    def runs(_: WireJob) -> list[tuple[str, Any]]:
        lost = agent.script.executions <= times
        return [("fault", fault)] if lost else [("result", asdict(measurement()))]

    agent.script.runs = runs
    told: list[str] = []
    device = start(interrupted=told.append)
    if works:
        assert device.measure(bundle, asked, cancel=NEVER) == measurement()
        assert told == ["it lost a job, which is submitted anew (the agent restarted before the job ended)"] * 2
        assert agent.script.executions == 3
        return
    with pytest.raises(JobFailed, match=r"lost the job 4 times.*the agent restarted") as lost:
        device.measure(bundle, asked, cancel=NEVER)
    assert lost.value.fault == "DEVICE_LOST"
    assert agent.script.executions == 4
