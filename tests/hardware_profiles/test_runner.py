import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent import proc, supervisor
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.runner import decode_job, explain
from hardware_profiles.agent.supervisor import Cancelled, run_job
from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Answer, Answered, Job, JobFailed, Request, encode
from hardware_profiles.runtimes import find
from spaces.errors import BadInput
from tests import boards

Sealed = Callable[..., Bundle]
RUN = "from hardware_profiles.agent.runner import main; main()"


def script(code: str) -> tuple[str, ...]:
    """A runner that does something first or instead."""
    return (sys.executable, "-I", "-c", code)


def job(requests: tuple[Request, ...], bundle: Path = Path("/nowhere"), **deadlines: float) -> Job:
    limits = {"load": 60.0, "warmup": 60.0, "work": 60.0} | deadlines
    return Job(kind="answer", bundle=str(bundle), requests=requests, deadline_s=limits)


def test_a_job_survives_its_line(requests: tuple[Request, ...]) -> None:
    assert decode_job(encode(job(requests))) == job(requests)
    for line in (
        "",
        "{}",
        "[]",
        '{"kind":"answer","bundle":"x","requests":[]}',
        '{"kind":"x","bundle":"x","requests":[1]}',
    ):
        with pytest.raises(BadInput, match="job"):
            decode_job(line)


def test_answers_come_back_in_order_with_the_manifests_prompt(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed()
    result = run_job(job(requests * 2, bundle.folder))
    assert isinstance(result, Answered)
    assert [answer.id for answer in result.answers] == [request.id for request in requests * 2]
    assert "in bf16, by margins" in result.properties["scoring.drafts"] or result.properties["scoring.drafts"] == "none"
    assert result.properties["scoring"] == "in batches; batches agreed on 8 of 8"
    assert result.properties["language.INFERENCE_PRECISION_HINT"] == "f32"
    assert 0 < result.load_s < 60
    assert 0 < result.work_s < 60
    from hardware_profiles.runtimes import Question
    from spaces.images import read_image

    session = find("openvino").load(bundle)
    for request, answer in zip(requests[:6], result.answers, strict=False):
        hint = " red green blue" if request.fields["kind"] == "colour" else ""
        question = Question(id="", image_HWC=read_image(Path(request.image)), prompt=request.question + hint)
        assert session.answer(question).text == answer.text


def test_a_measurement_keeps_its_raw_samples(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    asked = Job(kind="measure", bundle=str(sealed().folder), requests=requests[:4], min_answers=13)
    result = measure(asked)
    assert [timing.id for timing in result.timings] == [str(number % 4) for number in range(13)]
    assert result.mode == "provisional"
    process = result.processes[0]
    assert 0 <= process.began_s < process.ended_s <= result.trace[-1].t_s
    assert process.warmup_answers >= 11
    assert process.first_ms > min(timing.e2e_ms for timing in result.timings)
    assert 20 << 20 < process.memory_baseline_bytes < result.memory_peak_bytes < 4 << 30
    assert result.energy_source.startswith("none: ") == (result.energy_j is None)
    assert bool(result.reasons) == (result.verdict != "valid")
    json.loads(encode(result))


def test_the_torch_runtime_runs_the_same_job(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    result = run_job(job(requests[:10], sealed("torch").folder))
    assert isinstance(result, Answered)
    assert result.properties["dtype"] == "torch.float32"
    assert result.properties["scoring.drafts"] == "none"
    assert result.properties["scoring"].startswith("in batches")


def test_what_libraries_print_does_not_reach_the_channel(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    noisy = script(f"import os; os.write(2, b'x' * 200000); print('{{}}', file=__import__('sys').stderr); {RUN}")
    assert isinstance(run_job(job(requests[:3], sealed().folder), command=noisy), Answered)


def test_bad_input_is_named(tmp_path: Path, sealed: Sealed, requests: tuple[Request, ...]) -> None:
    with pytest.raises(JobFailed, match=r"INVALID_INPUT: /nowhere is no bundle"):
        run_job(job(requests))
    missing = Request(id="7", image=str(tmp_path / "gone.png"), question="what ?")
    with pytest.raises(JobFailed, match=r"INVALID_INPUT: .*gone\.png cannot be read"):
        run_job(job((missing,), sealed().folder))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_runner_that_dies_is_a_crash_with_its_signal(requests: tuple[Request, ...], number: signal.Signals) -> None:
    dies = script(
        f"import os, sys; print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), {int(number)})"
    )
    with pytest.raises(JobFailed) as failed:
        run_job(job(requests), command=dies)
    assert failed.value.fault == "CRASH"
    assert number.name in failed.value.reason
    assert "last words" in failed.value.reason


def test_a_runner_that_just_ends_is_a_crash(requests: tuple[Request, ...]) -> None:
    with pytest.raises(JobFailed, match=r"CRASH: the runner ended with exit code 3: bye"):
        run_job(job(requests), command=script("import sys; print('bye', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(JobFailed, match=r"CRASH: the runner sent .* which is no event"):
        run_job(job(requests), command=script("print('hello', flush=True); import time; time.sleep(60)"))
    with pytest.raises(JobFailed, match=r"CRASH: the runner sent a line longer than"):
        run_job(job(requests), command=script("import os\nwhile True: os.write(1, b'x' * 65536)"))


@pytest.mark.parametrize(
    "event",
    [
        {"event": "answers"},
        {"event": "answers", "answers": [{"id": "0", "tokens": 1}]},
        {"event": "answers", "answers": [{"id": "0", "text": 7, "tokens": 1}]},
        {"event": "timing", "timing": {"id": "0", "token_ms": 3}},
        {"event": "phase"},
        {"event": "phase", "phase": ["work"]},
        {"event": "loaded", "load_s": 1.0, "properties": [1]},
        {"event": "fault", "fault": "NONE", "reason": "?"},
        {"event": "done"},
    ],
    ids=json.dumps,
)
def test_an_event_that_is_not_as_it_should_be_is_a_crash(requests: tuple[Request, ...], event: dict[str, Any]) -> None:
    with pytest.raises(JobFailed, match=r"CRASH: the runner sent an event that is not as it should be"):
        run_job(job(requests), command=script(f"print({json.dumps(json.dumps(event))}, flush=True); input()"))


def test_a_measurement_without_a_timing_is_a_crash(timed_job: Job) -> None:
    with pytest.raises(JobFailed, match=r"CRASH: .*it timed no answer"):
        measure(timed_job, command=boards.script("begin(); work(answers=0)"))


def test_a_kill_for_memory_is_oom(requests: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter((4, 5))
    monkeypatch.setattr(proc, "oom_kills", lambda: next(kills))
    with pytest.raises(JobFailed, match="OOM: the kernel killed the runner"):
        run_job(job(requests), command=script("import os; os.kill(os.getpid(), 9)"))


def test_a_bundle_that_does_not_fit_is_oom(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    limited = (
        "import resource, openvino_genai, numpy, PIL.Image; from hardware_profiles.runtimes import openvino;"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        f"resource.setrlimit(resource.RLIMIT_AS, (now + (8 << 20),) * 2); {RUN}"
    )
    with pytest.raises(JobFailed) as failed:
        run_job(job(requests[:3], sealed().folder), command=script(limited))
    assert failed.value.fault == "OOM", failed.value


def test_errors_are_explained() -> None:
    assert explain(MemoryError())[0] == "OOM"
    assert explain(RuntimeError("std::bad_alloc"))[0] == "OOM"
    assert explain(BadInput("no")) == ("INVALID_INPUT", "no")
    assert explain(FloatingPointError("the model's\nlogits")) == ("CRASH", "output-sanity failure: the model's logits")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_slow_phase_is_killed_with_all_its_children(requests: tuple[Request, ...], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = (
        "import signal, os, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); child = os.fork();"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ');"
        'print(\'{"event":"phase","phase":"warmup"}\', flush=True); time.sleep(600)'
    )
    start = time.monotonic()
    with pytest.raises(JobFailed, match=r"TIMEOUT: nothing was heard of warmup for 0\.5 s"):
        run_job(job(requests, warmup=0.5), command=script(stubborn))
    assert time.monotonic() - start < 0.5 + supervisor.GRACE_S + supervisor.GONE_S
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    assert all(gone(pid) for pid in started)


SPEAKS = "import json, time; say = lambda event, **more: print(json.dumps({'event': event, **more}), flush=True);"


def test_a_runner_that_is_slow_but_speaks_is_waited_for(requests: tuple[Request, ...]) -> None:
    slow = (
        "say('phase', phase='load'); say('loaded', load_s=1.0); say('phase', phase='work')\n"
        "for number in range(12): time.sleep(0.1); say('tick')\n"
        "say('answers', answers=[{'id': '0', 'text': 'x', 'tokens': 1}]); say('done', work_s=1.2, memory_peak_bytes=1)"
    )
    result = run_job(job(requests, work=0.6), command=script(SPEAKS + slow))
    assert isinstance(result, Answered)
    assert result.answers[0].text == "x"


def test_a_runner_that_falls_silent_at_work_is_a_timeout(requests: tuple[Request, ...]) -> None:
    silent = "say('phase', phase='work'); say('tick'); time.sleep(600)"
    with pytest.raises(JobFailed, match=r"TIMEOUT: nothing was heard of work for 0\.5 s"):
        run_job(job(requests, work=0.5), command=script(SPEAKS + silent))
    mutters = "say('phase', phase='work')\nwhile True: print('x', end='', flush=True); time.sleep(0.05)"
    with pytest.raises(JobFailed, match=r"TIMEOUT: nothing was heard of work"):
        run_job(job(requests, work=0.5), command=script(SPEAKS + mutters))


def test_endless_ticks_end_with_the_total(requests: tuple[Request, ...]) -> None:
    endless = "say('phase', phase='work')\nwhile True: say('tick'); time.sleep(0.05)"
    asked = Job(
        kind="answer",
        bundle="/nowhere",
        requests=requests,
        deadline_s={"load": 0.4, "warmup": 0.1, "work": 0.4},
        answer_s=0.005,
    )
    assert asked.total_s == pytest.approx(0.9 + 0.005 * (64 + 40))
    begun = time.monotonic()
    with pytest.raises(JobFailed, match=r"TIMEOUT: work went on, but the job had taken 1\.42 s in all"):
        run_job(asked, command=script(SPEAKS + endless))
    assert 1.4 < time.monotonic() - begun < 1.5 + supervisor.GRACE_S + supervisor.GONE_S


ANSWERS = (
    "say('loaded', load_s=1.0); say('phase', phase='work')\n"
    "for n in range(40): say('answers', answers=[{'id': str(n), 'text': 'x', 'tokens': 1}])\n"
)


def test_the_caller_may_have_heard_enough(requests: tuple[Request, ...]) -> None:
    heard: list[str] = []

    def enough(answers: Sequence[Answer]) -> bool:
        heard.extend(answer.id for answer in answers)
        return len(heard) >= 7

    never_ends = SPEAKS + ANSWERS + "time.sleep(600)"
    result = run_job(job(requests), enough=enough, command=script(never_ends))
    assert isinstance(result, Answered)
    assert heard == [str(number) for number in range(len(heard))]
    assert [answer.id for answer in result.answers] == heard
    assert len(heard) == 7
    assert result.memory_peak_bytes is None
    assert 0 <= result.work_s < 60
    ends = SPEAKS + ANSWERS + "say('done', work_s=1.2, memory_peak_bytes=1)"
    whole = run_job(job(requests), enough=lambda _: False, command=script(ends))
    assert isinstance(whole, Answered)
    assert len(whole.answers) == 40


def test_a_real_load_over_its_deadline_is_a_timeout(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    with pytest.raises(JobFailed, match=r"TIMEOUT: nothing was heard of load for 0\.1 s"):
        run_job(job(requests, sealed().folder, load=0.1))


def test_a_job_is_cancelled_from_another_thread(requests: tuple[Request, ...]) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        run_job(job(requests), cancel=cancel, command=script("import time; time.sleep(600)"))
    timer.join()
    assert time.monotonic() - start < 5


def test_the_runner_dies_with_its_supervisor(tmp_path: Path) -> None:
    import subprocess

    pid_file = tmp_path / "pid"
    inner = (
        "import os, time; from hardware_profiles.agent import runner;"
        f"wait = lambda line: (open({str(pid_file)!r}, 'w').write(str(os.getpid())), time.sleep(600));"
        "runner.decode_job = wait; runner.main()"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {inner!r}], stdin=subprocess.DEVNULL)"
    supervisor = subprocess.Popen([sys.executable, "-I", "-c", outer])
    end = time.monotonic() + 20
    while time.monotonic() < end and not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.02)
    runner = int(pid_file.read_text())
    supervisor.kill()
    supervisor.wait()
    while time.monotonic() < end and not gone(runner):
        time.sleep(0.02)
    assert gone(runner)


def test_probes_read_this_process() -> None:
    import resource

    held = bytearray(64 << 20)
    assert proc.memory_now_bytes() >= len(held)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert proc.memory_peak_bytes() == pytest.approx(peak, rel=0.1)
