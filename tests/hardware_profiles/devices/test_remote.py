import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.exchange import Asked, refused
from hardware_profiles.agent.facts import boot_id
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.device import Device
from hardware_profiles.devices import upload
from hardware_profiles.messages import Answer, Job, JobFailed, Request
from hardware_profiles.wire import Code
from spaces.errors import BadInput
from tests.hardware_profiles.devices.scripted import HELLO, NEVER, Agent, Open, measurement, wait_for


def test_a_measurement_comes_back_as_it_was_made_and_only_what_is_missing_travels(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardware_profiles.devices.remote._LONG_BYTES", 1)
    told: list[str] = []
    device: Device = start()
    assert (device.name, device.here, device.profile.memory_bytes) == ("bench", False, 8 << 30)
    assert device.measure(bundle, asked, min_answers=13, cancel=NEVER, waiting=told.append) == measurement()
    (job,) = (one.asked for one in agent.script.jobs.values())
    assert (job.kind, job.mode, job.min_answers, len(job.requests)) == ("measure", "provisional", 13, 4)
    assert job.manifest == (bundle / "manifest.json").read_text()
    assert len(agent.script.blobs) == 4  # two files, two images
    assert told == ["0 MB go to bench"]
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
    device = start()
    seen: list[Sequence[Answer]] = []

    def never(came: Sequence[Answer]) -> bool:
        seen.append(came)
        return False

    every = device.answer(bundle, asked, cancel=NEVER, enough=never)
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

    def cancel() -> None:
        wait_for(lambda: agent.script.count("GET", "events"))
        stop.set()

    threading.Thread(target=cancel).start()
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


@pytest.mark.parametrize(("status", "code"), [(507, "NO_SPACE"), (409, "CONFLICT"), (424, "MISSING_BLOBS")])
def test_what_passes_is_no_fault_of_the_configuration(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], status: int, code: Code
) -> None:
    device = start()

    def refuse(call: Asked) -> None:
        if "/jobs/" in call.path:
            raise refused(status, code, "the journal cannot be written")

    agent.script.before = refuse
    with pytest.raises(JobFailed, match="TRANSPORT: bench refused: the journal cannot be written"):
        device.measure(bundle, asked, cancel=NEVER)


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
    with pytest.raises(JobFailed, match=r"does not know this host \(any more\); vlmfront device remove bench,") as told:
        device.measure(bundle, asked, cancel=NEVER)
    assert told.value.fault == "DEVICE_LOST"


def test_a_job_of_which_nothing_is_heard_is_not_followed_for_ever(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = start()
    runner = Job(kind="measure", bundle="", requests=asked)
    monkeypatch.setattr(upload, "_MARGIN_S", 0.3 - runner.total_s)
    agent.script.runs = lambda _: [("phase", {"phase": "load"})]
    with pytest.raises(JobFailed, match="DEVICE_LOST: bench has said nothing of a job for 0 s"):
        device.measure(bundle, asked, cancel=NEVER)


def changed(**fields: Any) -> dict[str, Any]:
    """A measurement of which one process has other fields, or its timings do."""
    found = asdict(measurement())
    for part in (found["processes"][0], *found["processes"][0]["timings"]):
        part |= {name: value for name, value in fields.items() if name in part}
    return found


@pytest.mark.parametrize(
    "result",
    [
        asdict(measurement()) | {"processes": []},
        changed(timings=[]),
        changed(id="9"),
        changed(e2e_ms=0.0),
        changed(ttft_ms=-1),
        changed(memory_peak_bytes=0),
        changed(load_s=0),
        {},
    ],
)
def test_a_measurement_that_cannot_be_of_this_job_is_of_the_way(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], result: dict[str, Any]
) -> None:
    agent.script.runs = lambda _: [("result", result)]
    with pytest.raises(JobFailed, match="TRANSPORT: the device sent no proper result"):
        start().measure(bundle, asked, cancel=NEVER)


def test_an_answer_without_a_token_has_no_first_one(agent: Agent, start: Open, bundle: Path, asked: Any) -> None:
    result = changed(ttft_ms=0.0, token_ms=[])
    agent.script.runs = lambda _: [("result", result)]
    assert not start().measure(bundle, asked, cancel=NEVER).timings[0].token_ms


@pytest.mark.parametrize("ids", ["012", "01239", "01233", "", "9"])
def test_answers_that_were_not_asked_or_are_left_out_are_of_the_way(
    agent: Agent, start: Open, bundle: Path, asked: tuple[Request, ...], ids: str
) -> None:
    said = [{"id": one, "text": "red", "tokens": 1} for one in ids]
    facts = {"load_s": 0.5, "work_s": 0.2, "memory_peak_bytes": 7, "properties": {}}
    agent.script.runs = lambda _: [("answers", {"answers": said}), ("result", facts)]
    with pytest.raises(JobFailed, match="TRANSPORT: the device sent no proper result"):
        start().answer(bundle, asked, cancel=NEVER)


def test_a_fault_that_there_is_not_is_of_the_way(agent: Agent, start: Open, bundle: Path, asked: Any) -> None:
    agent.script.runs = lambda _: [("fault", {"fault": "EATEN", "reason": "by a dog"})]
    with pytest.raises(JobFailed, match="TRANSPORT: the device sent no proper result"):
        start().measure(bundle, asked, cancel=NEVER)


def test_events_that_are_missing_are_noticed(agent: Agent, start: Open, bundle: Path, asked: Any) -> None:
    device = start()
    agent.script.runs = lambda _: [("phase", {"phase": "load"}), ("phase", {"phase": "warmup"})]

    def drop(call: Asked) -> None:
        for job in agent.script.jobs.values():
            job.events[:] = job.events[1:]

    agent.script.before = drop
    with pytest.raises(JobFailed, match="TRANSPORT: bench left out events of a job after number 0"):
        device.measure(bundle, asked, cancel=NEVER)
