"""The runtime ``server``: what it makes of a stream, of a server that fails, and of the processes it started."""

import base64
import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Answered, Job, JobFailed, Process, Request, encode
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import Example, Question, find
from hardware_profiles.runtimes.server import messages
from spaces.errors import BadInput
from tests.hardware_profiles.conftest import Sealed
from tests.servers import Configured

SCRIPTED = Path(__file__).with_name("scripted_server.py")
PIXELS = np.random.default_rng(5).integers(0, 256, (9, 14, 3), dtype=np.uint8)
QUESTION = Question(id="q", image_HWC=PIXELS, prompt="what is this ?")
Scripted = Callable[..., Bundle]


def said(text: str | None = None, reason: str | None = None, **more: Any) -> str:
    delta = {} if text is None else {"content": text}
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})


def usage(count: int, **more: Any) -> str:
    return json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count, **more}})


STOP = [[0, said(None, "stop")], [0, usage(3)], [0, "[DONE]"]]
RED_BALL = [[0, said("red")], [0, said(" ball")], *STOP]


@pytest.fixture
def scripted(configured: Configured, sealed: Sealed) -> Scripted:
    """A bundle whose server follows a script; ``start_s`` is that of its configuration."""

    def make(start_s: float = 20, **script: Any) -> Bundle:
        command = [sys.executable, str(SCRIPTED), "{port}", json.dumps(script)]
        configured(one={"command": command, "start_s": start_s, "model": "tiny", "request": {"seed": 4}})
        return sealed("server", server="one")

    return make


def running(word: str) -> list[int]:
    """Processes that live and have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(word: str) -> bool:
    limit = time.monotonic() + 10
    while running(word) and time.monotonic() < limit:
        time.sleep(0.02)
    return not running(word)


def test_a_request_has_the_very_pixels_and_is_greedy(scripted: Scripted, tmp_path: Path) -> None:
    session = find("server").load(scripted(events=RED_BALL, seen=str(tmp_path / "seen")))
    assert session.answer(QUESTION).text == "red ball"
    asked = json.loads((tmp_path / "seen").read_text())
    parts = asked.pop("messages")[0]["content"]
    kept = {"model": "tiny", "stream": True, "temperature": 0, "max_tokens": 8, "seed": 4}
    assert asked == kept | {"stream_options": {"include_usage": True}}
    assert parts[1] == {"type": "text", "text": "what is this ?"}
    coded = parts[0]["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(coded)))), PIXELS)


def test_examples_are_turns_before_the_question() -> None:
    example = Example(image_HWC=PIXELS[:3], prompt="and this ?", answer="blue")
    turns = messages(Question(id="q", image_HWC=PIXELS, prompt="?", examples=(example,)))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == "blue"
    assert [turn["content"][1]["text"] for turn in (turns[0], turns[2])] == ["and this ?", "?"]
    with pytest.raises(BadInput, match="nearest exemplars"):
        messages(Question(id="q", image_HWC=PIXELS, prompt="?", retrieve=lambda *_: ()))


def test_each_chunk_has_the_time_at_which_it_came(scripted: Scripted) -> None:
    events = [[0.1, said("")], [0.1, said("red")], [0.2, said(" ball")], [0.1, said(None, "stop")], [0.1, usage(3)]]
    session = find("server").load(scripted(events=[*events, [0, "[DONE]"]]))
    timing = session.answer(QUESTION)
    assert timing.ttft_ms == pytest.approx(200, abs=80)
    assert np.diff(timing.token_ms) == pytest.approx([200, 100], abs=80)
    assert timing.e2e_ms == pytest.approx(600, abs=120)
    assert timing.e2e_ms >= 600
    assert 0 < (timing.preprocess_ms or 0) < timing.ttft_ms - 190
    assert (timing.vision_ms, timing.prefill_ms) == (None, None)


@pytest.mark.parametrize(
    ("events", "tokens", "how"),
    [
        (RED_BALL, 3, "one a chunk and the end token"),
        ([[0, said("red")], [0, said(" ball", "length")], [0, usage(2)]], 2, "one a chunk"),
        ([[0, said("red")], [0, said(" ball")], [0, said(None, "stop")]], 2, "by chunks, since the server"),
        ([[0, said("red")], [0, said(" ball")], [0, said(None, "stop")], [0, usage(6)]], 6, "more than chunks"),
        (
            [[0, said("r")], [0, said("ed")], [0, said(" ball")], [0, said(None, "stop")], [0, usage(2)]],
            2,
            "fewer than",
        ),
        ([[0, said(None, "stop")], [0, usage(1)]], 1, "none with text"),
        ([[0, said(None, "stop")]], 1, "by chunks"),
    ],
)
def test_tokens_are_those_that_the_server_counts(scripted: Scripted, events: Any, tokens: int, how: str) -> None:
    session = find("server").load(scripted(events=events))
    timing = session.answer(QUESTION)
    assert len(timing.token_ms) == tokens
    assert list(timing.token_ms) == sorted(timing.token_ms)
    assert timing.ttft_ms == timing.token_ms[0] <= timing.token_ms[-1] <= timing.e2e_ms
    assert how in session.properties["tokens"]
    assert session.answer_many([QUESTION])[0].tokens == tokens


def test_what_a_server_says_of_itself_is_kept(scripted: Scripted) -> None:
    ends = said(None, "stop", timings={"prompt_ms": 12.5, "cache_n": 3, "on": True}, system_fingerprint="b81-abc")
    counted = usage(2, prompt_tokens_details={"cached_tokens": 5})
    session = find("server").load(scripted(events=[[0, said("red")], [0, ends], [0, counted]]))
    session.answer(QUESTION)
    session.answer(QUESTION)
    found = session.properties
    assert found["server.timings.prompt_ms"] == "12.5 (median of 2 answers)"
    assert found["server.usage.cached_tokens"] == "5 (median of 2 answers)"
    assert found["server.version"] == "b81-abc"
    assert "server.timings.on" not in found


@pytest.mark.parametrize(
    ("script", "fault", "words"),
    [
        ({"leave": 4, "before": "no such flag"}, "CRASH", r"'one' ended with exit code 4: no such flag"),
        ({"leave": 1, "before": "cudaMalloc failed: out of memory"}, "OOM", "out of memory"),
        ({"ready": 503, "start_s": 0.5, "before": "loading"}, "TIMEOUT", r"load: .*/health.* 0\.5 s: loading"),
        ({"events": [[0, said("red")], [0, "die"]]}, "CRASH", r"exit code 3: the model fell over"),
        ({"events": [[0, said("red")], [0, None]]}, "CRASH", "ended its answer too soon"),
        ({"events": [[0, "{"]]}, "CRASH", "Expecting"),
        ({"events": [[0, '{"error": {"message": "no slot"}}']]}, "CRASH", "no slot"),
        ({"status": 503}, "CRASH", "refused a question .503"),
        ({"status": 400}, "INVALID_INPUT", "refused a question .400"),
        ({"events": [[0, said("a")]] * 9 + STOP[:1]}, "INVALID_INPUT", "9 tokens where at most 8"),
        ({"events": [[0, said("a")]], "endless": True}, "CRASH", "more than 128 chunks"),
    ],
)
def test_a_server_that_fails_is_a_typed_fault(
    scripted: Scripted, tiny_images: list[Path], script: dict[str, Any], fault: str, words: str
) -> None:
    bundle = scripted(**{"before": "", **script})
    request = Request(id="0", image=str(tiny_images[0]), question="what ?", fields={"kind": "shape"})
    with pytest.raises(JobFailed, match=words) as caught:
        run_job(Job(kind="measure", bundle=str(bundle.folder), requests=(request,)))
    assert caught.value.fault == fault


def test_what_a_server_started_ends_with_the_job(scripted: Scripted, tiny_images: list[Path], tmp_path: Path) -> None:
    word = str(tmp_path / "grandchild")
    bundle = scripted(events=RED_BALL, child=word)
    request = Request(id="0", image=str(tiny_images[0]), question="what ?", fields={"kind": "shape"})
    seen: list[int] = []

    def look(_: object) -> bool:
        seen.extend(running(word))
        return False

    answered = run_job(Job(kind="answer", bundle=str(bundle.folder), requests=(request,)), enough=look)
    assert isinstance(answered, Answered)
    assert [answer.text for answer in answered.answers] == ["red ball"]
    assert len(seen) == 2  # the server, which has the word in its script, and what it started
    assert not running(word)


def test_a_program_that_is_not_there_is_named(configured: Configured, sealed: Sealed) -> None:
    configured(one={"command": ["/no/such/server", "{port}"]})
    with pytest.raises(BadInput, match=r"/no/such/server is no program that this user may run"):
        find("server").load(sealed("server", server="one"))


def test_memory_is_that_of_the_servers_processes(scripted: Scripted, tmp_path: Path) -> None:
    word = str(tmp_path / "child")
    session = find("server").load(scripted(events=RED_BALL, child=word))
    members = {pid for pid in running(str(SCRIPTED)) + running(word) if os.getpgid(pid) in running(str(SCRIPTED))}
    assert len(members) == 2

    def peaks() -> int:
        return sum(int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10 for pid in members)

    before, told, after = peaks(), session.memory_peak_bytes(), peaks()  # type: ignore[attr-defined]
    assert before <= told <= after  # a process that has just begun still grows
    del session
    gc.collect()
    assert gone(word)
    assert gone(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_a_runner_that_is_killed(
    scripted: Scripted, tiny_images: list[Path], tmp_path: Path, number: signal.Signals
) -> None:
    bundle = scripted(events=[[600, said("never")]], seen=str(tmp_path / "seen"))
    request = Request(id="0", image=str(tiny_images[0]), question="what ?", fields={"kind": "shape"})
    job = Job(kind="measure", bundle=str(bundle.folder), requests=(request,))
    command = [sys.executable, "-m", "hardware_profiles.agent.runner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as runner:
        assert runner.stdin
        runner.stdin.write(encode(job) + "\n")
        runner.stdin.flush()
        limit = time.monotonic() + 20
        while not (tmp_path / "seen").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        assert running(str(tmp_path / "seen"))
        runner.send_signal(number)
    assert gone(str(tmp_path / "seen"))


def test_a_real_server_is_measured_and_counts_tokens_as_torch_does(
    tiny_server: str, sealed: Sealed, requests: tuple[Request, ...]
) -> None:
    bundle = sealed("server", server=tiny_server)
    job = Job(kind="measure", bundle=str(bundle.folder), requests=requests[:6], min_answers=11)
    measured = run_job(job)
    assert isinstance(measured, Process)
    assert not running(str(bundle.folder))
    reference = sealed("torch")
    asker = Asker(reference.folder, reference.manifest.prompt)
    wanted = find("torch").load(reference).answer_many([asker.question(request) for request in requests[:6]])
    given = {timing.id: (timing.text, len(timing.token_ms)) for timing in measured.timings}
    assert given == {answer.id: (answer.text, answer.tokens) for answer in wanted}
    assert measured.memory_baseline_bytes == 0
    assert measured.memory_peak_bytes > 200 << 20  # torch alone is more; the runner without it is less
    assert measured.properties["execution"].startswith("the server's own")
    assert "sum over the server's 1 processes" in measured.properties["memory"]
