"""Cases 7 and 8: the agent is killed in the middle of a job, or the device restarts.

The job is lost and says why, nothing of it still runs, and the host has it done again.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hardware_profiles.bundle import Execution, seal
from hardware_profiles.devices.upload import pack
from spaces.prompting import Prompt
from tests.faults.bench import NEVER, Bench, asked, runs, until
from tests.faults.hosts import Host

LEASE = "00000000-0000-4000-8000-000000000001"
JOB = "00000000-0000-4000-8000-000000000002"
OTHER_BOOT = "11111111-2222-4333-8444-555555555555"


def test_case_07_no_runner_outlives_an_agent_that_was_killed(
    bench: Bench, host: Host, bundle: Path, image: Path
) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        call.submit(JOB, pack("answer", bundle, asked(image, "hold")))
        orphan = bench.executed()
        bench.kill()
        assert runs(orphan.pid)  # it is not tied to its agent, so somebody has to look for it
        bench.start()
    with host.calls(bench) as call:  # serves only once the orphan is gone
        assert not runs(orphan.pid)
        fault = call.fault(JOB)
        assert fault == {"fault": "DEVICE_LOST", "reason": "the agent restarted before the job ended"}
        assert len(bench.audit("orphan killed")) == 1
        assert call.take(LEASE).epoch == (1 << 32) + 1  # beyond every epoch of the agent before
    assert len(bench.executions()) == 1


@pytest.mark.parametrize("reboots", [False, True], ids=["case_07", "case_08"])
def test_the_host_has_a_lost_job_done_again(
    bench: Bench, host: Host, bundle: Path, image: Path, aside: ThreadPoolExecutor, reboots: bool
) -> None:
    with host.open() as device:
        result = aside.submit(device.answer, bundle, asked(image, "hold"), cancel=NEVER)
        first = bench.executed()
        bench.kill()
        bench.start(**({"boot_id": OTHER_BOOT} if reboots else {}))
        second = bench.executed(2)
        assert runs(first.pid) is reboots  # whatever has its number after a restart of the device is another's
        bench.go()
        assert result.result(30).answers[0].text.split()[0] == str(second.pid)
        (lost,) = [path for path in (bench.state / "jobs").iterdir() if "DEVICE_LOST" in read_events(path)]
        by = "the device" if reboots else "the agent"
        assert f"{by} restarted before the job ended" in read_events(lost)
    assert len(bench.executions()) == 2
    assert list((bench.state / "jobs").iterdir()) == []  # both are acknowledged


def test_case_08_another_boot_id_is_told_at_hello_and_kills_nobody(
    bench: Bench, host: Host, bundle: Path, image: Path
) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        call.submit(JOB, pack("answer", bundle, asked(image, "hold")))
        bench.executed()
    bench.kill()
    bench.start(boot_id=OTHER_BOOT)
    with host.open() as device:
        assert (device.hello.boot_id, device.here) == (OTHER_BOOT, False)
    assert bench.audit("orphan killed") == []
    with host.calls(bench) as call:
        assert call.fault(JOB)["reason"] == "the device restarted before the job ended"


def test_case_07_an_agent_that_is_killed_at_rest_keeps_its_results(
    bench: Bench, host: Host, bundle: Path, image: Path
) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        call.submit(JOB, pack("answer", bundle, asked(image)))
        assert call.last(JOB)["event"] == "result"
        until(lambda: b'"done"' in call("GET", f"/v1/jobs/{JOB}").body)
        events = call("GET", f"/v1/jobs/{JOB}/events?after=0&wait=0").body
        bench.kill()
        bench.start()
    with host.calls(bench) as call:
        assert b'"done"' in call("GET", f"/v1/jobs/{JOB}").body
        assert call("GET", f"/v1/jobs/{JOB}/events?after=0&wait=0").body == events
    assert len(bench.executions()) == 1


def test_case_07_the_real_runner_is_gone_with_its_agent_and_the_answers_are_the_same(
    bench: Bench, host: Host, tiny_openvino: Path, tiny_images: list[Path], tmp_path: Path, aside: ThreadPoolExecutor
) -> None:
    bundle = sealed_copy(tiny_openvino, tmp_path / "tiny")
    requests = tuple(replace(asked(image)[0], id=image.name) for image in tiny_images)
    bench.kill()
    bench.start(runner=None)
    with host.open(patience_s=60.0) as device:
        result = aside.submit(device.answer, bundle, requests, cancel=NEVER)
        until(lambda: (bench.state / "runner.json").exists())
        runner = json.loads((bench.state / "runner.json").read_text())["pid"]
        (job,) = (bench.state / "jobs").iterdir()
        bench.kill()
        bench.start(runner=None)
        assert not runs(runner)
        answers = result.result(60).answers
        assert "the agent restarted before the job ended" in read_events(job)
        assert answers == device.answer(bundle, requests, cancel=NEVER).answers
    assert [one.id for one in answers] == [one.name for one in tiny_images]
    assert any(one.text for one in answers)


def read_events(job: Path) -> str:
    return (job / "events.jsonl").read_text()


def sealed_copy(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    prompt = Prompt(template="{question}")
    seal(
        folder, runtime="openvino", prompt=prompt, max_new_tokens=8, execution=Execution(), candidate={}, provenance={}
    )
    return folder
