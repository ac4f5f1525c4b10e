import asyncio
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hardware_profiles.agent import service as service_module
from hardware_profiles.agent import worker as worker_module
from hardware_profiles.agent.exchange import Asked
from hardware_profiles.agent.leases import Leases
from hardware_profiles.agent.service import Service
from hardware_profiles.agent.status import LOCK, status
from hardware_profiles.bundle import Bundle as Sealed
from hardware_profiles.held import locked
from hardware_profiles.messages import Answer, JobFailed, Measurement, Request, Unkillable
from hardware_profiles.wire import Hello, Preflight, WireJob, WireRequest, build, dump, parse
from tests.hardware_profiles.agent.conftest import FACTS, HANGS, PNG, Agent, Bundle, Host, sha256

OTHER = "b" * 64


async def ready(service: Service, bundle: Bundle) -> Host:
    """A host that holds the device and has sent a bundle."""
    host = Host(service)
    await host.take()
    await host.upload(*bundle.contents)
    return host


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_job_from_upload_to_acknowledgement(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid = await host.submit(bundle.job())
        events = await host.follow(uuid)
        assert [one.event for one in events] == ["phase", "phase", "answers", "result"]
        assert [one.seq for one in events] == [1, 2, 3, 4]
        assert events[2].content == {"answers": [{"id": "0", "text": "x", "tokens": 1}]}
        assert events[3].content["work_s"] == 0.5
        assert "answers" not in events[3].content
        state = json.loads((await host.call("GET", f"/v1/jobs/{uuid}")).body)
        assert state == {"status": "done", "last_seq": 4}
        assert await host.events(uuid, 3) == events[3:]
        assert (await host.call("PUT", f"/v1/jobs/{uuid}/acknowledged")).status == 204
        assert (await host.call("PUT", f"/v1/jobs/{uuid}/acknowledged")).status == 204
        await host.refused(404, "NOT_FOUND", "GET", f"/v1/jobs/{uuid}")
        await host.refused(409, "REPLAYED", "PUT", f"/v1/jobs/{uuid}", dump(bundle.job()))

    agent.run(test)
    assert agent.heard_of("image deleted") == [sha256(bundle.images[0])]
    assert len(agent.heard_of("job replayed")) == 1
    left = {path.name for path in (agent.state / "blobs").iterdir()}
    assert left == {sha256(content) for content in bundle.files.values()}
    assert list((agent.state / "jobs").iterdir()) == []
    assert not (agent.state / "runner.json").exists()


def test_an_error_between_two_jobs_does_not_end_the_work(
    agent: Agent, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Path) -> None:
        raise OSError("the disk is read-only")

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        for _ in range(2):
            assert (await host.follow(await host.submit(bundle.job())))[-1].event == "result"

    monkeypatch.setattr(worker_module, "unmark", fails)
    agent.run(test)
    assert capsys.readouterr().err.count("OSError: the disk is read-only") == 2


def test_hello(agent: Agent) -> None:
    agent.state.mkdir()
    server = {"command": ["x", "{port}"], "ready": "/health", "model": "any", "start_s": 1}
    (agent.state / "servers.json").write_text(json.dumps({"llama": server}))

    async def test(service: Service) -> None:
        found = parse(Hello, (await Host(service).call("GET", "/v1/hello")).body)
        assert found.facts == FACTS
        assert found.protocols == (1, 1)
        assert set(found.runtimes) >= {"openvino", "torch"}
        assert found.servers == ("llama",)
        assert 0 < found.disk_free_bytes <= 1 << 30
        assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    agent.run(test)


def test_the_same_job_again_starts_nothing(agent: Agent, bundle: Bundle, tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid, path = str(uuid4()), "/v1/jobs/"
        replies = await asyncio.gather(*(host.call("PUT", path + uuid, dump(bundle.job())) for _ in range(5)))
        assert sorted(reply.status for reply in replies) == [200, 200, 200, 200, 201]
        await host.follow(uuid)
        assert (await host.call("PUT", path + uuid, dump(bundle.job()))).status == 200
        other = replace(host, peer=OTHER)
        await host.refused(409, "CONFLICT", "PUT", path + uuid, dump(bundle.job(min_answers=12)))
        await other.refused(409, "STALE_EPOCH", "PUT", path + uuid, dump(bundle.job()))
        await other.refused(404, "NOT_FOUND", "GET", path + uuid)
        await other.refused(404, "NOT_FOUND", "GET", f"{path}{uuid}/events")

    agent.run(test, f"open({str(runs)!r}, 'a').write('x')\n{HANGS[:0]}say('done', work_s=0.5, memory_peak_bytes=1)\n")
    assert runs.read_text() == "x"


def test_only_the_holder_may_write(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        content = b"x" * 10
        host, blob = await ready(service, bundle), f"/v1/blobs/sha256:{sha256(content)}"
        job, uuid = dump(bundle.job()), str(uuid4())
        await host.submit(bundle.job(), uuid)
        await host.follow(uuid)
        calls: tuple[tuple[str, str, bytes], ...] = (
            ("PATCH", blob, content),
            ("PUT", blob, b""),
            ("PUT", f"/v1/jobs/{uuid4()}", job),
            ("DELETE", f"/v1/jobs/{uuid}", b""),
            ("PUT", f"/v1/jobs/{uuid}/acknowledged", b""),
        )
        sizes = {"Upload_Offset": "0", "Upload_Length": "10"}
        for stranger in (replace(host, epoch=host.epoch + 1 if host.epoch else 0), replace(host, peer=OTHER)):
            for method, path, body in calls:
                await stranger.refused(409, "STALE_EPOCH", method, path, body, **sizes)
        for method, path, body in calls:
            await host.refused(400, "MALFORMED", method, path, body, Lease_Epoch="", **sizes)
        assert (await host.refused(404, "NOT_FOUND", "HEAD", blob)).headers == {"Upload-Offset": "0"}
        assert await host.status(uuid) == "done"

    agent.run(test)
    assert len(agent.heard_of("stale epoch")) == 10


def test_two_hosts_race_for_one_device(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        first, second, third = Host(service), Host(service, peer=OTHER), Host(service, peer=OTHER)
        taken = [await host.take() for host in (first, second, third)]
        assert [lease["position"] for lease in taken] == [0, 1, 2]
        assert [lease["epoch"] is None for lease in taken] == [False, True, True]
        await first.call("DELETE", f"/v1/leases/{first.lease}")
        lease = await second.take()
        assert lease["epoch"] == taken[0]["epoch"] + 1
        await first.refused(409, "STALE_EPOCH", "PUT", f"/v1/jobs/{uuid4()}", dump(bundle.job()))
        assert (await third.take())["position"] == 1

    agent.run(test)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_host_that_dies_frees_the_device_and_its_late_write_is_stale(
    agent: Agent, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, pids = Clock(), tmp_path / "pid"
    monkeypatch.setattr(service_module, "Leases", lambda start: Leases(start, clock))

    async def test(service: Service) -> None:
        dead, other = await ready(service, bundle), Host(service, peer=OTHER)
        await other.take(120.0)
        uuid = await dead.submit(bundle.job())
        waiting = await dead.submit(bundle.job(min_answers=12))
        await dead.until(uuid, "answers")
        clock.now += 60.0
        lease = await other.take()
        assert lease["position"] == 0
        for one in (uuid, waiting):
            assert (await dead.follow(one))[-1].content["fault"] == "STALE_EPOCH"
            assert await dead.status(one) == "cancelled"
        assert gone(int(pids.read_text()))
        await dead.refused(409, "STALE_EPOCH", "PUT", f"/v1/jobs/{uuid}/acknowledged")
        while not agent.heard_of("image deleted"):  # by the worker, once it has ended the job
            await asyncio.sleep(0.01)
        await other.refused(424, "MISSING_BLOBS", "PUT", f"/v1/jobs/{uuid4()}", dump(bundle.job()))
        await other.call("DELETE", f"/v1/leases/{other.lease}")
        await dead.take()
        assert (await dead.call("PUT", f"/v1/jobs/{uuid}/acknowledged")).status == 204

    code = f"open({str(pids)!r}, 'w').write(str(os.getpid()))\n"
    agent.run(test, code + "say('answers', answers=[{'id': '0', 'text': 'x', 'tokens': 1}])\n" + HANGS)
    assert agent.heard_of("image deleted") == [sha256(bundle.images[0])]


def test_a_lease_runs_out_by_itself(agent: Agent, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardware_profiles.agent import leases

    monkeypatch.setattr(leases, "LEAST_TTL_S", 0.05)

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid = await host.submit(bundle.job())
        await host.until(uuid, "phase")
        await host.take(0.2)
        assert (await host.follow(uuid))[-1].content["fault"] == "STALE_EPOCH"

    agent.run(test, HANGS)


def test_status_names_the_job_that_runs_and_counts_the_rest(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        first = await host.submit(bundle.job())
        await host.until(first, "phase")
        await host.submit(bundle.job(min_answers=12))
        with locked(agent.state / LOCK, exclusive=True):
            found = await asyncio.to_thread(status, agent.state)
        assert (found.running, found.queued, found.kept) == (first, 1, 0)
        assert found.holder == "an unpaired host"

    agent.run(test, HANGS)
    assert status(agent.state).kept == 2


@pytest.mark.parametrize("running", [True, False])
def test_a_job_is_cancelled(agent: Agent, bundle: Bundle, running: bool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        first = await host.submit(bundle.job())
        await host.until(first, "answers")
        second = await host.submit(bundle.job(min_answers=12))
        stopped = first if running else second
        waiting = asyncio.create_task(host.events(stopped, 9, wait=30.0))
        await asyncio.sleep(0)
        await host.refused(409, "CONFLICT", "PUT", f"/v1/jobs/{stopped}/acknowledged")
        assert (await host.call("DELETE", f"/v1/jobs/{stopped}")).status == 204
        assert await asyncio.wait_for(waiting, 20) == []
        assert await host.status(stopped) == "cancelled"
        assert gone(int(pids.read_text().split()[0])) == running
        assert (await host.call("DELETE", f"/v1/jobs/{stopped}")).status == 204
        assert (await host.call("PUT", f"/v1/jobs/{stopped}/acknowledged")).status == 204

    code = f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
    agent.run(test, code + "say('answers', answers=[{'id': '0', 'text': 'x', 'tokens': 1}])\n" + HANGS)


def test_faults_of_the_runner_are_results(agent: Agent, bundle: Bundle, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "kind = job['requests'][0]['question']\n"
        "if kind == 'segfault': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if kind == 'oom': say('fault', fault='OOM', reason='at a peak of 5 MiB'); sys.exit()\n"
        "if kind == 'deaf':\n"
        f"    signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(pids)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "say('done', work_s=0.5, memory_peak_bytes=1)\n"
    )

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        found = {}
        for kind in ("segfault", "oom", "deaf", "fine"):
            request = replace(bundle.job().requests[0], question=kind)
            silence = {"work": 0.3 if kind == "deaf" else 30.0}
            uuid = await host.submit(bundle.job(requests=(request,), deadline_s=silence))
            event = (await host.follow(uuid))[-1]
            found[kind] = (event.event, event.content.get("fault"), event.content.get("reason", ""))
        assert found["segfault"][:2] == ("fault", "CRASH")
        assert "SIGSEGV" in found["segfault"][2]
        assert found["oom"] == ("fault", "OOM", "at a peak of 5 MiB")
        assert found["deaf"][:2] == ("fault", "TIMEOUT")
        assert gone(int(pids.read_text()))
        assert found["fine"][0] == "result"

    agent.run(test, code)


def test_a_runner_that_outlives_sigkill_quarantines_the_device(
    agent: Agent, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def unkillable(*arguments: object, **named: object) -> None:
        release.wait(20)
        raise Unkillable("CRASH", "the runner's process group 4711 outlived SIGKILL")

    monkeypatch.setattr(worker_module, "run_job", unkillable)

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        first, second = await host.submit(bundle.job()), await host.submit(bundle.job(min_answers=12))
        release.set()
        assert (await host.follow(first))[-1].content["fault"] == "CRASH"
        assert (await host.follow(second))[-1].content["fault"] == "DEVICE_LOST"
        await host.refused(503, "QUARANTINED", "PUT", f"/v1/jobs/{uuid4()}", dump(bundle.job()))
        assert (await host.call("PUT", f"/v1/jobs/{first}/acknowledged")).status == 204

    agent.run(test)
    assert len(agent.heard_of("quarantined")) == 1


def test_a_preflight_that_fails_says_how(agent: Agent, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PREFLIGHT", "json.tool")  # which ends with 2 for a folder

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        event = (await host.follow(await host.submit(bundle.job(kind="preflight", requests=()))))[-1]
        assert (event.event, event.content["fault"]) == ("fault", "INVALID_INPUT")
        assert "ended with exit code 2: usage: python -m json.tool" in event.content["reason"]

    agent.run(test)


def test_what_a_preflight_prints_is_its_result() -> None:
    found = Preflight(device="CPU", operations=7, fallback={"Sin": "not there"}, reasons=("too large",))
    assert worker_module._preflight_in(b"a library's word\n" + dump(found) + b"\n", b"", 0) == found
    for said, code, fault in ((b"", 0, "CRASH"), (b"{}", 0, "CRASH"), (dump(found), -11, "CRASH"), (b"", 1, "CRASH")):
        with pytest.raises(JobFailed, match=fault):
            worker_module._preflight_in(said, b"why\n", code)


def test_the_link_is_cut_mid_blob(agent: Agent) -> None:
    content = os.urandom(3_000_000)
    path = f"/v1/blobs/sha256:{sha256(content)}"

    async def cut(upto: int) -> AsyncIterator[bytes]:
        for place in range(0, upto, 70_000):
            yield content[place : min(upto, place + 70_000)]
        raise ConnectionError("cut")

    async def test(service: Service) -> None:
        host = Host(service)
        await host.take()
        headers = {"lease-epoch": str(host.epoch), "upload-offset": "0", "upload-length": "3000000"}
        asked = Asked(method="PATCH", path=path, headers=headers, length=3_000_000, peer=host.peer)
        with pytest.raises(ConnectionError):
            await service.handle(asked, cut(1_700_001))
        assert (await host.refused(404, "NOT_FOUND", "HEAD", path)).headers == {"Upload-Offset": "1700001"}
        sizes: dict[str, Any] = {"Upload_Offset": "1700001", "Upload_Length": "3000000"}
        reply = await host.call("PATCH", path, content[1_700_001:], **sizes)
        assert (reply.status, reply.headers) == (204, {"Upload-Offset": "3000000"})
        assert [(await host.call("PUT", path)).status for _ in range(2)] == [201, 200]
        assert (await host.call("HEAD", path)).headers == {"Content-Length": "3000000"}

    agent.run(test)
    assert (agent.state / "blobs" / sha256(content)).read_bytes() == content


def test_a_disk_without_room_refuses_before_anything_is_written(agent: Agent) -> None:
    async def test(service: Service) -> None:
        host = Host(service)
        await host.take()
        path = f"/v1/blobs/sha256:{'1' * 64}"
        await host.refused(507, "NO_SPACE", "PATCH", path, b"x", Upload_Offset="0", Upload_Length="1001")
        await host.upload(b"old" * 300)
        await host.upload(b"new" * 300)

    agent.run(test, limit_bytes=1000)
    assert [path.name for path in (agent.state / "blobs").iterdir()] == [sha256(b"new" * 300)]


MALFORMED: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "no such place": ("GET", "/v1/nothing", b"", {}),
    "a uuid in capitals": ("GET", "/v1/jobs/0000000A-0000-0000-0000-000000000000", b"", {}),
    "a path for a digest": ("HEAD", "/v1/blobs/..", b"", {}),
    "no digits": ("HEAD", "/v1/blobs/sha256:" + "g" * 64, b"", {}),
    "a newline": ("HEAD", "/v1/blobs/sha256:" + "0" * 64 + "\n", b"", {}),
    "no offset": ("PATCH", "/v1/blobs/sha256:" + "0" * 64, b"x", {"Upload_Length": "1"}),
    "an offset below 0": ("PATCH", "/v1/blobs/sha256:" + "0" * 64, b"x", {"Upload_Length": "1", "Upload_Offset": "-1"}),
    "other digits": ("PATCH", "/v1/blobs/sha256:" + "0" * 64, b"x", {"Upload_Length": "1", "Upload_Offset": "²"}),
    "no JSON": ("PUT", f"/v1/jobs/{uuid4()}", b"{", {}),
    "no job": ("PUT", f"/v1/jobs/{uuid4()}", b"{}", {}),
    "no lease": ("PUT", f"/v1/leases/{uuid4()}", b"[]", {}),
    "a TTL without end": ("PUT", f"/v1/leases/{uuid4()}", b'{"ttl_s": 1e999}', {}),
    "a TTL of 400 digits": ("PUT", f"/v1/leases/{uuid4()}", b'{"ttl_s": 1%s}' % (b"0" * 400), {}),
    "a time without end": (
        "PUT",
        f"/v1/jobs/{uuid4()}",
        b'{"kind":"answer","manifest":"","requests":[],"answer_s":1e999}',
        {},
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_refused(agent: Agent, case: str) -> None:
    method, path, body, headers = MALFORMED[case]

    async def test(service: Service) -> None:
        host = Host(service)
        await host.take()
        status, code = (404, "NOT_FOUND") if case == "no such place" else (400, "MALFORMED")
        await host.refused(status, code, method, path, body, **headers)

    agent.run(test)


@pytest.mark.parametrize("query", [{"after": "-1"}, {"after": "x"}, {"wait": "nan"}, {"wait": "-1"}, {"wait": "soon"}])
def test_a_malformed_question_for_events_is_refused(agent: Agent, bundle: Bundle, query: dict[str, str]) -> None:
    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid = await host.submit(bundle.job())
        await host.refused(400, "MALFORMED", "GET", f"/v1/jobs/{uuid}/events", query=query)
        await host.follow(uuid)
        await host.refused(405, "UNSUPPORTED", "POST", f"/v1/jobs/{uuid}")

    agent.run(test)


IMPOSSIBLE: dict[str, Callable[[Bundle], WireJob]] = {
    "no questions": lambda b: b.job(requests=()),
    "an image by its path": lambda b: b.job(requests=(WireRequest(id="0", image="/etc/passwd", question="?"),)),
    "endless answers": lambda b: b.job(min_answers=1 << 40),
    "endless patience": lambda b: b.job(deadline_s={"load": 1e300}),
    "another phase": lambda b: b.job(deadline_s={"sleep": 1.0}),
    "no manifest": lambda b: b.job(manifest="{}"),
    "half a character": lambda b: b.job(manifest=json.dumps(b.manifest, ensure_ascii=False)[:-1] + ', "a": "\ud800"}'),
    "a header that lies": lambda b: Bundle(
        files=b.files | {"sub/weights.safetensors": (1 << 63).to_bytes(8, "little") + b"{}"}, manifest=b.manifest
    ).job(),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_job_that_cannot_be_is_refused_and_leaves_nothing(agent: Agent, bundle: Bundle, case: str) -> None:
    async def test(service: Service) -> None:
        wrong = bundle
        if case == "a header that lies":
            files = bundle.files | {"sub/weights.safetensors": (1 << 63).to_bytes(8, "little") + b"{}"}
            content = files["sub/weights.safetensors"]
            entry = {"sha256": sha256(content), "size": len(content)}
            listed = bundle.manifest["files"] | {"sub/weights.safetensors": entry}
            wrong = Bundle(files=files, manifest=bundle.manifest | {"files": listed})
        host = await ready(service, wrong)
        job = IMPOSSIBLE[case](wrong)
        uuid = str(uuid4())
        await host.refused(422, "INVALID_INPUT", "PUT", f"/v1/jobs/{uuid}", json_of(job))
        await host.refused(404, "NOT_FOUND", "GET", f"/v1/jobs/{uuid}")
        assert list((agent.state / "jobs").iterdir()) == []

    agent.run(test)


def json_of(job: WireJob) -> bytes:
    from dataclasses import asdict

    return json.dumps(asdict(job)).encode()


def test_images_of_no_job_go_with_the_lease_and_at_the_start(agent: Agent, bundle: Bundle) -> None:
    other = b"\xff\xd8\xff a JPEG"

    async def first(service: Service) -> None:
        host = await ready(service, bundle)
        await host.call("DELETE", f"/v1/leases/{host.lease}")
        while not agent.heard_of("image deleted"):
            await asyncio.sleep(0.01)
        await host.take()
        await host.upload(other)

    agent.run(first)
    agent.run(lambda service: Host(service).take())
    assert agent.heard_of("image deleted") == [sha256(PNG), sha256(other)]
    left = {path.name for path in (agent.state / "blobs").iterdir()}
    assert left == {sha256(content) for content in bundle.files.values()}


def test_missing_blobs_are_named(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        host = Host(service)
        await host.take()
        await host.upload(bundle.files["config.json"])
        found = await host.refused(424, "MISSING_BLOBS", "PUT", f"/v1/jobs/{uuid4()}", dump(bundle.job()))
        missing = (bundle.files["sub/weights.safetensors"], *bundle.images)
        assert set(found.problem.expected) == {f"sha256:{sha256(content)}" for content in missing}

    agent.run(test)


def test_a_job_has_links_of_blobs_and_nothing_else(agent: Agent, bundle: Bundle) -> None:
    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid = await host.submit(bundle.job())
        await host.until(uuid, "phase")
        folder = agent.state / "jobs" / uuid
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        named = {f"bundle/{name}": content for name, content in bundle.files.items()}
        named[f"images/{sha256(bundle.images[0])}"] = bundle.images[0]
        assert set(found) == {*named, "bundle/manifest.json", "events.jsonl"}
        for name, content in named.items():
            assert found[name].read_bytes() == content
            assert found[name].samefile(agent.state / "blobs" / sha256(content))
            assert found[name].stat().st_mode & 0o222 == 0
        await host.call("DELETE", f"/v1/jobs/{uuid}")

    agent.run(test, HANGS)


def test_a_host_restarts_and_finds_its_job_again(agent: Agent, bundle: Bundle, tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def test(service: Service) -> None:
        host = await ready(service, bundle)
        uuid = await host.submit(bundle.job())
        seen = await host.events(uuid, wait=30.0)
        again = Host(service, lease=host.lease)
        assert (await again.take())["epoch"] == host.epoch
        assert (await again.call("PUT", f"/v1/jobs/{uuid}", dump(bundle.job()))).status == 200
        go.touch()
        events = await again.follow(uuid)
        assert events[: len(seen)] == seen
        assert events[-1].event == "result"

    agent.run(
        test, f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\nsay('done', work_s=1, memory_peak_bytes=1)"
    )


def test_an_agent_that_ends_says_so_of_its_jobs(agent: Agent, bundle: Bundle) -> None:
    uuids: list[str] = []

    async def first(service: Service) -> None:
        host = await ready(service, bundle)
        uuids.extend([await host.submit(bundle.job()), await host.submit(bundle.job(min_answers=12))])
        await host.until(uuids[0], "phase")

    async def second(service: Service) -> None:
        host = Host(service)
        before = await host.take()
        for uuid in uuids:
            assert (await host.follow(uuid))[-1].content == {"fault": "DEVICE_LOST", "reason": "the agent was stopped"}
            assert (await host.call("PUT", f"/v1/jobs/{uuid}/acknowledged")).status == 204
        assert before["epoch"] > 1 << 32

    agent.run(first, HANGS)
    agent.run(second)
    assert agent.heard_of("image deleted") == [sha256(bundle.images[0])]


KILLED = """
import asyncio, json, sys
from pathlib import Path
from typing import Any
from tests.hardware_profiles.agent.conftest import Agent, Bundle, Host, manifest_of, script

async def main():
    files = {"config.json": b"{}"}
    bundle = Bundle(files=files, manifest=manifest_of(files))
    agent = Agent(Path(sys.argv[1]))
    host = Host(agent.start(script(sys.argv[2])))
    await host.take()
    await host.upload(*bundle.contents)
    uuid = await host.submit(bundle.job())
    await host.until(uuid, "answers")
    print(uuid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_an_agent_that_is_killed_leaves_no_runner_and_reports_its_job(agent: Agent, tmp_path: Path) -> None:
    """The runner here does not ask to die with its agent, and has a child in a group of its own."""
    import subprocess
    import sys

    pids = tmp_path / "pids"
    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        "if child == 0: os.setpgid(0, 0); time.sleep(600)\n"
        "say('answers', answers=[{'id': '0', 'text': 'x', 'tokens': 1}])\n"
        f"while len(open({str(pids)!r}).read().split()) < 2: time.sleep(0.01)\n" + HANGS
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(agent.state), stubborn], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    uuid = killed.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    runners = [int(pid) for pid in pids.read_text().split()]
    assert not any(map(gone, runners))

    async def test(service: Service) -> None:
        assert all(map(gone, runners))
        host = Host(service)
        assert await host.status(uuid) == "failed"
        lost = (await host.follow(uuid))[-1]
        assert lost.content == {"fault": "DEVICE_LOST", "reason": "the agent restarted before the job ended"}

    agent.run(test)
    assert len(agent.heard_of("orphan killed")) == 1
    assert len(agent.heard_of("image deleted")) == 1


def test_a_real_bundle_is_answered_and_measured(
    agent: Agent, sealed: Callable[..., Sealed], requests: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end with the real runner; what it answers is compared with a run without the agent."""
    from hardware_profiles.agent import measure
    from hardware_profiles.agent.supervisor import RUNNER, run_job
    from hardware_profiles.messages import Answered, Job

    monkeypatch.setattr(measure, "ATTEMPTS", 1)
    made = sealed()
    images = {request.image: Path(request.image).read_bytes() for request in requests}
    files = {name: (made.folder / name).read_bytes() for name in made.manifest.files}
    asked = tuple(
        WireRequest(id=one.id, image=f"sha256:{sha256(images[one.image])}", question=one.question, fields=one.fields)
        for one in requests[:12]
    )
    job = WireJob(kind="answer", manifest=(made.folder / "manifest.json").read_text(), requests=asked)

    async def test() -> tuple[list[Answer], Measurement]:
        service = agent.start(RUNNER)
        host = Host(service)
        await host.take()
        try:
            await host.upload(*{*files.values(), *images.values()})
            events = await host.follow(await host.submit(job))
            answers = [build(Answer, one, "") for event in events[:-1] for one in event.content.get("answers", ())]
            whole = {**events[-1].content, "answers": [a.__dict__ for a in answers]}
            build(Answered, whole, "Answered")
            measured = await host.submit(replace(job, kind="measure", requests=asked[:2]))
            return answers, build(Measurement, (await host.follow(measured))[-1].content, "Measurement")
        finally:
            await service.close()

    answers, measurement = asyncio.run(test())
    alone = run_job(Job(kind="answer", bundle=str(made.folder), requests=requests[:12]))
    assert isinstance(alone, Answered)
    assert tuple(answers) == alone.answers
    assert measurement.mode == "provisional"
    assert len(measurement.timings) == 11
    shutil.rmtree(agent.state)
