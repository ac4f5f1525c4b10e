"""Runs one job in a process of its own: ``python -I -m hardware_profiles.agent.runner``.

One Job comes as a JSON line on stdin; events go out as JSON lines, each at most ``LINE_BYTES`` long, on a private copy
of stdout, so that nothing a library prints can come between. Events: ``phase`` at the start of ``load``, ``warmup`` and
``work``; ``loaded``; ``warm``; ``answers`` and ``timing`` as they come; ``done`` or ``fault`` last.
"""

import ctypes
import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from hardware_profiles.agent import probes
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Fault, Job, Request, Timing
from hardware_profiles.runtimes import Question, Session, find
from hardware_profiles.runtimes.images import read_image
from spaces.errors import BadInput
from spaces.prompting import Prompt, render

LINE_BYTES = 1 << 20
CHUNK = 64  # questions answered between two events
CHECKED = 8  # questions answered both ways before batches are trusted
WARMUP_BLOCK = 5  # answers
WARMUP_BLOCKS = 12  # at most
WARMUP_AGREE = 0.05  # of the median
IDLE_S = 1.0  # over which idle power is taken where there is an energy counter
_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("bad_alloc", "cannot allocate memory", "out of memory", "not enough memory", "failed to allocate")


class Events:
    """The private line to the supervisor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, **content}, separators=(",", ":"), allow_nan=False)
        if len(line) >= LINE_BYTES:
            raise ValueError(f"an event of {len(line)} characters is over the cap of {LINE_BYTES}")
        self._stream.write(line + "\n")
        self._stream.flush()


def decode_job(line: str) -> Job:
    """A Job from its JSON line.

    Raises:
        BadInput: if it is none.
    """
    try:
        body = json.loads(line)
        requests = tuple(Request(**request) for request in body.pop("requests"))
        job = Job(requests=requests, **body)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the job is malformed ({error}); send one Job as one JSON line.") from error
    if job.kind not in ("answer", "measure") or not requests:
        raise BadInput("the job asks nothing; give it the kind answer or measure and at least one request.")
    return job


def main() -> None:
    """Read one job, run it, report; exit code 0 whenever the last event was sent."""
    events = Events(_private_stdout())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        run(decode_job(sys.stdin.readline()), events)
    except Exception as error:
        fault, reason = explain(error)
        if fault == "CRASH":
            sys.excepthook(type(error), error, error.__traceback__)
        events.send("fault", fault=fault, reason=reason[:2000], memory_peak_bytes=probes.memory_peak_bytes())


def explain(error: Exception) -> tuple[Fault, str]:
    """The fault that an exception amounts to, and its reason."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        peak = probes.memory_peak_bytes() >> 20
        return "OOM", f"memory ran out at a peak of {peak} MiB: {text or type(error).__name__}"
    if isinstance(error, BadInput):
        return "INVALID_INPUT", text
    return "CRASH", f"{type(error).__name__}: {text}"


def run(job: Job, events: Events) -> None:
    """Load, warm up and work, with an event at the start of each phase."""
    events.send("phase", phase="load")
    bundle = open_bundle(Path(job.bundle))
    runtime = find(bundle.manifest.runtime)
    runtime.prepare()
    idle_w, energy_reason = _idle_watts() if job.kind == "measure" else (None, "")
    baseline = probes.memory_now_bytes()
    start = time.perf_counter()
    session = runtime.load(bundle)
    load_s = time.perf_counter() - start
    events.send("loaded", load_s=load_s, memory_baseline_bytes=baseline, properties=dict(session.properties))
    if job.kind == "answer":
        _answer(job, bundle.manifest.prompt, session, events)
    else:
        _measure(job, bundle.manifest.prompt, session, events, idle_w, energy_reason)


def _answer(job: Job, prompt: Prompt, session: Session, events: Events) -> None:
    events.send("phase", phase="warmup")
    checked = [_question(request, prompt) for request in job.requests[:CHECKED]]
    singly = [session.answer(question).text for question in checked]
    agreed = sum(one == many.text for one, many in zip(singly, session.answer_many(checked), strict=True))
    batched = agreed == len(checked)
    how = "in batches" if batched else "one by one"
    events.send("warm", properties={"scoring": f"{how}; batches agreed on {agreed} of {len(checked)}"})
    events.send("phase", phase="work")
    start = time.perf_counter()
    for requests in _chunks(job.requests):
        questions = [_question(request, prompt) for request in requests]
        if batched:
            answers = [asdict(answer) for answer in session.answer_many(questions)]
        else:
            timings = [session.answer(question) for question in questions]
            answers = [{"id": timing.id, "text": timing.text, "tokens": len(timing.token_ms)} for timing in timings]
        events.send("answers", answers=answers)
    events.send(
        "done",
        work_s=time.perf_counter() - start,
        memory_peak_bytes=probes.memory_peak_bytes(),
        properties=dict(session.properties),
    )


def _measure(
    job: Job, prompt: Prompt, session: Session, events: Events, idle_w: float | None, energy_reason: str
) -> None:
    events.send("phase", phase="warmup")
    questions = [_question(request, prompt) for request in job.requests]
    first = session.answer(questions[0])
    events.send("warm", first_ms=first.e2e_ms, warmup_answers=1 + warm_up(session, questions), properties={})
    events.send("phase", phase="work")
    timings: list[Timing] = []
    gc.collect()
    gc.disable()
    before, start = probes.energy_uj()[0], time.perf_counter()
    while len(timings) < max(job.min_answers, len(questions)):
        timings.append(session.answer(questions[len(timings) % len(questions)]))
    after, spent_s = probes.energy_uj()[0], time.perf_counter() - start
    gc.enable()
    for timing in timings:
        events.send("timing", timing=asdict(timing))
    energy_j = None
    if idle_w is not None and before is not None and after is not None:
        if after < before:
            energy_reason = "energy: the counter wrapped during the measurement"
        else:
            energy_j = ((after - before) / 1e6 - idle_w * spent_s) / len(timings)
    events.send(
        "done",
        memory_peak_bytes=probes.memory_peak_bytes(),
        energy_j=energy_j,
        reasons=[energy_reason] if energy_reason else [],
    )


def warm_up(session: Session, questions: Sequence[Question]) -> int:
    """Answer until the medians of two consecutive blocks agree, a bounded number of times; how many answers it took."""
    last, place = 0.0, 0
    for _ in range(WARMUP_BLOCKS):
        block = []
        for _ in range(WARMUP_BLOCK):
            block.append(session.answer(questions[place % len(questions)]).ttft_ms)
            place += 1
        median = statistics.median(block)
        if abs(median - last) <= WARMUP_AGREE * median:
            break
        last = median
    return place


def _question(request: Request, prompt: Prompt) -> Question:
    return Question(
        id=request.id,
        image_HWC=read_image(Path(request.image)),
        prompt=render(prompt, request.question, _fields(request.fields)),
    )


def _fields(fields: Mapping[str, str]) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in fields.items()}


def _chunks(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    for start in range(0, len(requests), CHUNK):
        yield requests[start : start + CHUNK]


def _idle_watts() -> tuple[float | None, str]:
    """The package's power while this process sleeps, or null and the reason."""
    before, reason = probes.energy_uj()
    if before is None:
        return None, reason
    time.sleep(IDLE_S)
    after, reason = probes.energy_uj()
    if after is None or after < before:
        return None, reason or "energy: the counter wrapped during the idle baseline"
    return (after - before) / 1e6 / IDLE_S, f"energy: RAPL package, above an idle baseline of {IDLE_S} s"


def _private_stdout() -> TextIO:
    """A copy of stdout that only events use; the process's own stdout goes where its stderr goes."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


if __name__ == "__main__":
    main()
