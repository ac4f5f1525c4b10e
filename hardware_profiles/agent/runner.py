"""Runs one job in a process of its own: ``python -I -m hardware_profiles.agent.runner``.

One Job comes as a JSON line on stdin; events go out as JSON lines, each at most ``LINE_BYTES`` long, on a private copy
of stdout, so that nothing a library prints can come between. Events: ``phase`` at the start of ``load``, ``warmup`` and
``work``; ``loaded``; ``warm``; ``answers`` as they come; ``worked`` at the end of timed answers, then a ``timing`` for
each; ``tick`` while it goes on; ``done`` or ``fault`` last. Energy is the supervisor's to read: stamps are of
CLOCK_MONOTONIC, which all processes of a machine share.

``load_s`` is that of a warm load: the bundle's files were read a moment before, to verify them, and are in the page
cache. Peak memory is the process's own VmHWM; why not the control group's peak is said in ``messages.Process``.
"""

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from hardware_profiles.agent import proc
from hardware_profiles.agent.parent import die_with_parent
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import LINE_BYTES, Fault, Job, JobFailed, Request, Timing
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import Question, Session, find
from spaces.errors import BadInput

CHUNK = 64  # questions answered between two events, at most
CHUNK_S = 10.0  # that a chunk may take, where it has more than one question
TICK_S = 1.0  # between two ticks, at least: they must not disturb what is timed
CHECKED = 8  # questions answered both ways before batches are trusted
WARMUP_BLOCK = 5  # answers
WARMUP_BLOCKS = 12  # at most
WARMUP_AGREE = 0.05  # of the median
_OUT_OF_MEMORY = ("bad_alloc", "cannot allocate memory", "out of memory", "not enough memory", "failed to allocate")


class Events:
    """The private line to the supervisor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heard = 0.0

    def send(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, **content}, separators=(",", ":"), allow_nan=False)
        if len(line) >= LINE_BYTES:
            raise ValueError(f"an event of {len(line)} characters is over the cap of {LINE_BYTES}")
        self._stream.write(line + "\n")
        self._stream.flush()
        self._heard = time.monotonic()

    def tick(self) -> None:
        """Say that work goes on, unless something was said within the last ``TICK_S``."""
        if time.monotonic() - self._heard >= TICK_S:
            self.send("tick")


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
    die_with_parent()
    try:
        run(decode_job(sys.stdin.readline()), events)
    except Exception as error:
        fault, reason = explain(error)
        if fault == "CRASH":
            sys.excepthook(type(error), error, error.__traceback__)
        events.send("fault", fault=fault, reason=reason[:2000], memory_peak_bytes=proc.memory_peak_bytes())


def explain(error: Exception) -> tuple[Fault, str]:
    """The fault that an exception amounts to, and its reason."""
    if isinstance(error, JobFailed):
        return error.fault, error.reason
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        peak = proc.memory_peak_bytes() >> 20
        return "OOM", f"memory ran out at a peak of {peak} MiB: {text or type(error).__name__}"
    if isinstance(error, BadInput):
        return "INVALID_INPUT", text
    if isinstance(error, FloatingPointError):
        return "CRASH", f"output-sanity failure: {text}"
    return "CRASH", f"{type(error).__name__}: {text}"


def run(job: Job, events: Events) -> None:
    """Load, warm up and work, with an event at the start of each phase."""
    events.send("phase", phase="load")
    bundle = open_bundle(Path(job.bundle))
    asker = Asker(bundle.folder, bundle.manifest.prompt)
    runtime = find(bundle.manifest.runtime)
    runtime.prepare()
    baseline = proc.memory_now_bytes()
    start = time.perf_counter()
    session = runtime.load(bundle)
    load_s = time.perf_counter() - start
    if hasattr(session, "memory_peak_bytes"):
        baseline = 0  # nothing of the engine was there before
    events.send("loaded", load_s=load_s, memory_baseline_bytes=baseline, properties=dict(session.properties))
    work = _answer if job.kind == "answer" else _measure
    work(job, asker, session, events, bundle.manifest.max_new_tokens)


def _answer(job: Job, asker: Asker, session: Session, events: Events, cap: int) -> None:
    events.send("phase", phase="warmup")
    checked = [asker.question(request) for request in job.requests[:CHECKED]]
    singly = _one_by_one(session, checked, events)
    check_sanity(singly, cap)
    events.send("phase", phase="load")  # the first batch may load an engine of its own
    agreed = sum(one.text == many.text for one, many in zip(singly, session.answer_many(checked), strict=True))
    batched = agreed == len(checked)
    how = "in batches" if batched else "one by one"
    events.send("warm", properties={"scoring": f"{how}; batches agreed on {agreed} of {len(checked)}"})
    events.send("phase", phase="work")
    start = time.perf_counter()
    done, size = 0, first_size(singly)
    while done < len(job.requests):
        begun = time.perf_counter()
        questions = [asker.question(request) for request in job.requests[done : done + size]]
        if batched:
            answers = [asdict(answer) for answer in session.answer_many(questions)]
        else:
            timings = _one_by_one(session, questions, events)
            answers = [{"id": timing.id, "text": timing.text, "tokens": len(timing.token_ms)} for timing in timings]
        events.send("answers", answers=answers)
        done += len(questions)
        size = next_size(size, time.perf_counter() - begun)
    drafts = session.properties.get("scoring.drafts", "none") if batched else "none"
    events.send(
        "done",
        work_s=time.perf_counter() - start,
        memory_peak_bytes=_memory_peak_bytes(session),
        properties={**session.properties, "scoring.drafts": drafts},
    )


def _one_by_one(session: Session, questions: Sequence[Question], events: Events) -> list[Timing]:
    timings = []
    for question in questions:
        timings.append(session.answer(question))
        events.tick()
    return timings


def first_size(answered: Sequence[Timing]) -> int:
    """Questions of the first chunk: one, where as many as were answered for the check would take too long."""
    return CHECKED if sum(timing.e2e_ms for timing in answered) < CHUNK_S * 1e3 else 1


def next_size(size: int, took_s: float) -> int:
    """Questions of the next chunk. Powers of two, so that what shares a batch hangs little on the clock."""
    if took_s > CHUNK_S:
        return max(1, size // 2)
    return min(CHUNK, size * 2) if took_s < CHUNK_S / 4 else size


def _measure(job: Job, asker: Asker, session: Session, events: Events, cap: int) -> None:
    events.send("phase", phase="warmup")
    questions = [asker.question(request) for request in job.requests]
    first = session.answer(questions[0])
    events.send(
        "warm", first_ms=first.e2e_ms, warmup_answers=1 + warm_up(session, questions, events.tick), properties={}
    )
    events.send("phase", phase="work")
    timings: list[Timing] = []
    gc.collect()
    gc.disable()
    began_s = time.monotonic()
    while len(timings) < max(job.min_answers, len(questions)) or time.monotonic() - began_s < job.sustained_s:
        timings.append(session.answer(questions[len(timings) % len(questions)]))
        events.tick()
    ended_s = time.monotonic()
    events.send("worked", began_s=began_s, ended_s=ended_s)
    gc.enable()
    peak, accelerator = _memory_peak_bytes(session), getattr(session, "accelerator_peak_bytes", lambda: None)()
    if check_sanity(timings, cap):
        session.answer_many(questions[:1])
    for timing in timings:
        events.send("timing", timing=asdict(timing))
    properties = dict(session.properties)
    events.send("done", memory_peak_bytes=peak, accelerator_peak_bytes=accelerator, properties=properties)


def check_sanity(timings: Sequence[Timing], cap: int) -> bool:
    """Whether the answers look like those of a model that computes no numbers, and more should be asked of it.

    With logits that are not finite every runtime here picks token 0 until the cap (tried: openvino, torch). A sound
    model may do so too, so that the runtimes' scoring path, which looks at the logits itself, has to say.

    Raises:
        OverflowError: an answer has more tokens than the cap.
    """
    longest = max(len(timing.token_ms) for timing in timings)
    if longest > cap:
        raise OverflowError(f"the runtime gave {longest} tokens, over the manifest's cap of {cap}")
    texts = {timing.text.strip() for timing in timings}
    alike = len(texts) == 1 and len(timings) > 1
    return alike and cap > 1 and all(len(timing.token_ms) == cap for timing in timings)


def _memory_peak_bytes(session: Session) -> int:
    """Of this process, or of the engine's own where the session says so."""
    own = getattr(session, "memory_peak_bytes", None)
    return int(own()) if own else proc.memory_peak_bytes()


def warm_up(session: Session, questions: Sequence[Question], tick: Callable[[], None]) -> int:
    """Answer until the medians of two consecutive blocks agree, a bounded number of times; how many answers it took."""
    last, place = 0.0, 0
    for _ in range(WARMUP_BLOCKS):
        block = []
        for _ in range(WARMUP_BLOCK):
            block.append(session.answer(questions[place % len(questions)]).ttft_ms)
            place += 1
            tick()
        median = statistics.median(block)
        if abs(median - last) <= WARMUP_AGREE * median:
            break
        last = median
    return place


def _private_stdout() -> TextIO:
    """A copy of stdout that only events use; the process's own stdout goes where its stderr goes."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


if __name__ == "__main__":
    main()
