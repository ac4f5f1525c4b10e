import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.exchange import Asked, refused
from hardware_profiles.agent.facts import boot_id
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.bundle import Execution, seal
from hardware_profiles.devices import follow, lease, open_device
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import Answer, JobFailed, Request
from hardware_profiles.wire import WireJob
from spaces.errors import BadInput
from spaces.prompting import Prompt
from tests.faults.proxy import Proxy
from tests.hardware_profiles.devices.scripted import HELLO, Agent, measurement

Open = Callable[..., RemoteDevice]
NEVER = threading.Event()


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.2)
    monkeypatch.setattr(lease, "_QUEUE_S", 0.05)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.xml").write_text("<net/>")
    (folder / "model.bin").write_bytes(b"\0" * 1000)
    seal(
        folder,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=8,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Request, ...]:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG" + bytes([number]))
    return tuple(Request(id=str(one), image=str(tmp_path / f"{one % 2}.png"), question="what ?") for one in range(4))


@pytest.fixture
def start(line: Proxy, opened: ExitStack) -> Iterator[Open]:
    def make(**given: Any) -> RemoteDevice:
        device = open_device("bench", **{"cancel": NEVER, "patience_s": 20.0} | given)
        opened.callback(device.close)
        return device

    return make  # type: ignore[return-value]


def test_a_measurement_comes_back_as_it_was_made_and_only_what_is_missing_travels(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device, told = start(), []
    assert (device.name, device.here, device.profile.memory_bytes) == ("bench", False, 8 << 30)
    assert device.measure(bundle, asked, min_answers=13, cancel=NEVER, waiting=told.append) == measurement()
    (job,) = (one.asked for one in agent.script.jobs.values())
    assert (job.kind, job.mode, job.min_answers, len(job.requests)) == ("measure", "provisional", 13, 4)
    assert job.manifest == (bundle / "manifest.json").read_text()
    assert len(agent.script.blobs) == 4  # two files, two images
    assert told == ["0.0 MB go to bench"]
    device.measure(bundle, asked, mode="finalist", cancel=NEVER)
    assert agent.script.count("PATCH", "blobs") == 4
    assert agent.script.count("HEAD", "blobs") == 4


def test_a_device_on_this_machine_knows_it(agent: Agent, start: Open) -> None:
    agent.script.hello = replace(HELLO, boot_id=boot_id())
    assert start().here


def test_a_result_is_acknowledged_only_when_the_next_job_begins_or_at_the_end(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()
    device.measure(bundle, asked, cancel=NEVER)
    assert agent.script.acknowledged == []
    first = next(iter(agent.script.jobs))
    device.measure(bundle, asked, cancel=NEVER)  # the same content again is another job
    assert agent.script.acknowledged == [first]
    assert agent.script.executions == 2
    device.close()
    assert len(agent.script.acknowledged) == 2
    assert agent.script.line == []


@pytest.mark.parametrize("lost", ["/v1/leases", "/v1/jobs", "events", "acknowledged", "/v1/hello"])
def test_a_lost_reply_makes_nothing_happen_twice(  # case 4
    agent: Agent, line: Proxy, start: Open, bundle: Path, asked: tuple[Request, ...], lost: str
) -> None:
    once = [True]

    def lose(call: Asked) -> None:
        if lost in call.path and agent.script.blobs | {"": b""} and once:
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
    killed._cancel = lambda _: None  # type: ignore[method-assign]  # a host that is killed cancels nothing

    def die() -> None:
        with pytest.raises(Cancelled):
            killed.measure(bundle, asked, cancel=stop)

    died = threading.Thread(target=die)
    died.start()
    wait_for(lambda: agent.script.count("GET", "events"))
    stop.set()
    died.join()
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
    threading.Thread(target=lambda: (wait_for(lambda: agent.script.count("GET", "events")), lose())).start()

    def lose() -> None:
        agent.script.runs = runs
        agent.do(agent.script.expire)

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
    device = start()
    if works:
        assert device.measure(bundle, asked, cancel=NEVER) == measurement()
        assert agent.script.executions == 3
        return
    with pytest.raises(JobFailed, match=r"lost the job 4 times.*the agent restarted") as told:
        device.measure(bundle, asked, cancel=NEVER)
    assert told.value.fault == "DEVICE_LOST"
    assert agent.script.executions == 4


@pytest.mark.parametrize("fault", ["OOM", "CRASH", "TIMEOUT", "INVALID_INPUT", "INVALID_NOISE"])
def test_a_fault_of_the_configuration_is_told_as_it_is_and_not_tried_again(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], fault: str
) -> None:
    agent.script.runs = lambda _: [("fault", {"fault": fault, "reason": "because"})]
    device = start()
    with pytest.raises(JobFailed, match="because") as told:
        device.measure(bundle, asked, cancel=NEVER)
    assert told.value.fault == fault
    assert agent.script.executions == 1


def test_answers_come_as_they_are_made_and_enough_of_them_end_the_job(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    said = [{"id": str(number), "text": "red", "tokens": 1} for number in range(4)]
    facts = {"load_s": 0.5, "work_s": 0.2, "memory_peak_bytes": 7, "properties": {"scoring": "in batches"}}
    agent.script.runs = lambda _: [
        ("answers", {"answers": said[:3]}),
        ("answers", {"answers": said[3:]}),
        ("result", facts),
    ]
    device, seen = start(), []
    every = device.answer(bundle, asked, cancel=NEVER, enough=lambda came: bool(seen.append(tuple(came))))
    assert every.answers == tuple(Answer(**one) for one in said)  # type: ignore[arg-type]
    assert (every.load_s, every.work_s, every.memory_peak_bytes) == (0.5, 0.2, 7)
    assert [len(came) for came in seen] == [3, 1]

    agent.script.runs = lambda _: [
        *(("phase", {"phase": phase}) for phase in ("load", "warmup", "work")),
        ("answers", {"answers": said[:2]}),
    ]
    some = device.answer(bundle, asked[:3], cancel=NEVER, enough=lambda _: True)
    assert [one.id for one in some.answers] == ["0", "1"]
    assert 0 <= some.load_s + some.work_s < 5
    assert (some.memory_peak_bytes, some.properties) == (None, {})
    assert [job.status for job in agent.script.jobs.values()] == ["cancelled"]


def test_a_cancel_stops_the_job_on_the_device(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    agent.script.runs = lambda _: [("phase", {"phase": "load"})]
    device, stop = start(), threading.Event()
    threading.Thread(target=lambda: (wait_for(lambda: agent.script.count("GET", "events")), stop.set())).start()
    with pytest.raises(Cancelled):
        device.measure(bundle, asked, cancel=stop)
    assert [job.status for job in agent.script.jobs.values()] == ["cancelled"]
    agent.script.runs = lambda _: [("result", asdict(measurement()))]
    assert device.measure(bundle, asked, cancel=NEVER) == measurement()


def test_blobs_that_went_away_are_brought_again_a_bounded_number_of_times(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()

    def collect(call: Asked) -> None:
        if call.method == "PUT" and "/jobs/" in call.path:
            agent.script.blobs.clear()

    agent.script.before = collect
    with pytest.raises(JobFailed, match="bench refused: missing"):
        device.measure(bundle, asked, cancel=NEVER)
    assert agent.script.count("PUT", "/jobs/") == 4


def test_what_the_agent_refuses_is_not_tried_again(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...]
) -> None:
    device = start()

    def refuse(call: Asked) -> None:
        if "/jobs/" in call.path:
            raise refused(422, "INVALID_INPUT", "model.bin: overlapping offsets")

    agent.script.before = refuse
    with pytest.raises(JobFailed, match=r"INVALID_INPUT: bench refused: model\.bin: overlapping offsets"):
        device.measure(bundle, asked, cancel=NEVER)
    assert agent.script.count("PUT", "/jobs/") == 1


def test_both_versions_are_named_where_the_protocols_do_not_meet(agent: Agent, start: Open) -> None:  # case 24
    agent.script.hello = replace(HELLO, protocols=(2, 3), agent="9.1.0")
    with pytest.raises(BadInput, match=r"bench speaks protocol 2 to 3 \(vlmfront 9\.1\.0\), this host 1 \(vlmfront 0"):
        start()
    assert agent.script.line == []


@pytest.mark.parametrize(
    ("runtimes", "told"),
    [
        ({}, "needs the runtime 'openvino'; bench has none"),
        ({"torch": "2.8.0"}, r"needs the runtime 'openvino'; bench has torch 2\.8\.0"),
        ({"openvino": "2024.6.0"}, r"bench has openvino 2024\.6\.0, older than the 20\d\d\.\d.* of this host"),
    ],
)
def test_a_runtime_that_does_not_fit_is_refused_before_anything_is_sent(  # case 24
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], runtimes: dict[str, str], told: str
) -> None:
    agent.script.hello = replace(HELLO, runtimes=runtimes)
    with pytest.raises(JobFailed, match=told) as refusal:
        start().measure(bundle, asked, cancel=NEVER)
    assert refusal.value.fault == "INVALID_INPUT"
    assert agent.script.count("PUT", "jobs") == 0


def test_a_host_that_was_unpaired_is_told_so_at_once(agent: Agent, start: Open, bundle: Path, asked: Any) -> None:
    device = start()
    for path in (agent.state / "paired").iterdir():
        path.unlink()
    with pytest.raises(JobFailed, match=r"does not know this host \(any more\); pair it again") as told:
        device.measure(bundle, asked, cancel=NEVER)
    assert told.value.fault == "DEVICE_LOST"


def test_events_that_are_missing_are_noticed(agent: Agent, start: Open, bundle: Path, asked: Any) -> None:
    device = start()
    agent.script.runs = lambda _: [("phase", {"phase": "load"}), ("phase", {"phase": "warmup"})]

    def drop(call: Asked) -> None:
        for job in agent.script.jobs.values():
            job.events[:] = job.events[1:]

    agent.script.before = drop
    with pytest.raises(JobFailed, match="TRANSPORT: bench left out events of a job after number 0"):
        device.measure(bundle, asked, cancel=NEVER)


def finish(agent: Agent) -> None:
    for job in agent.script.jobs.values():
        agent.script.emit(job, "result", asdict(measurement()))


def wait_for(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
