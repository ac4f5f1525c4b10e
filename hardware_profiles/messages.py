"""What host, agent and runner say to each other: typed messages, one JSON object a line. Standard library only."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Fault: TypeAlias = Literal["OOM", "CRASH", "TIMEOUT", "INVALID_INPUT", "INVALID_NOISE"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about one image. ``image`` is a path on the machine that answers."""

    id: str
    image: str
    question: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a runner is asked to do with one bundle.

    Attributes:
        kind: ``answer`` scores: answers every request, in batches, as fast as it can. ``measure`` times: one request
            after another, after warm-up, with memory.
        bundle: path of the bundle's folder.
        min_answers: ``measure``: least number of timed answers (11 is the least n for a p50, see docs/measurement).
        deadline_s: seconds for each phase before the runner is killed: ``load``, ``warmup``, ``work``.
    """

    kind: Literal["answer", "measure"]
    bundle: str
    requests: tuple[Request, ...]
    min_answers: int = 11
    deadline_s: Mapping[str, float] = field(default_factory=lambda: {"load": 120.0, "warmup": 60.0, "work": 600.0})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered request. ``tokens`` counts generated tokens, the end token included where the runtime says so."""

    id: str
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One timed answer, milliseconds from the call. A part that a runtime cannot tell apart is null.

    ``token_ms``: when each generated token was ready. ``ttft_ms`` is the first of them; ``e2e_ms`` the whole call.
    """

    id: str
    text: str
    preprocess_ms: float | None
    vision_ms: float | None
    prefill_ms: float | None
    ttft_ms: float
    e2e_ms: float
    token_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The result of an ``answer`` job. ``work_s`` is the wall time of answering alone."""

    answers: tuple[Answer, ...]
    load_s: float
    work_s: float
    memory_peak_bytes: int
    properties: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of a ``measure`` job: raw samples, a verdict, and what the runtime says of its own settings.

    Attributes:
        verdict: ``valid``; ``labelled`` (usable, with ``reasons``); ``invalid`` (not to be used).
        provisional: one process only (during search).
        memory_peak_bytes, memory_baseline_bytes: VmHWM of the runner, and its resident size before the bundle loaded.
        energy_j: joules per answer above idle; null with its reason in ``reasons`` where there is no sensor.
    """

    verdict: Literal["valid", "labelled", "invalid"]
    reasons: tuple[str, ...]
    provisional: bool
    load_s: float
    first_ms: float
    warmup_answers: int
    timings: tuple[Timing, ...]
    memory_peak_bytes: int
    memory_baseline_bytes: int
    energy_j: float | None
    properties: Mapping[str, str]


class JobFailed(Exception):
    """A job ended in a fault; OOM, CRASH and TIMEOUT are results about the configuration."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(f"{fault}: {reason}")
        self.fault = fault
        self.reason = reason


def encode(message: Any) -> str:
    """A message as one line of JSON."""
    return json.dumps(asdict(message), separators=(",", ":"), allow_nan=False)
