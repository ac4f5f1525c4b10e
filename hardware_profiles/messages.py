"""What host, agent and runner say to each other: typed messages, one JSON object a line. Standard library only."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

LINE_BYTES = 1 << 20  # of one message, at most
MOST_UNTIMED = 64  # answers that a runner gives before its work: the check of batches, or the warm-up
Fault: TypeAlias = Literal[
    "OOM", "CRASH", "TIMEOUT", "INVALID_INPUT", "INVALID_NOISE", "TRANSPORT", "DEVICE_LOST", "STALE_EPOCH"
]
"""``OOM``, ``CRASH`` and ``TIMEOUT`` are results about the configuration. ``DEVICE_LOST``, ``TRANSPORT`` and
``STALE_EPOCH`` are of the way to the device, and say nothing of the configuration."""
Mode: TypeAlias = Literal["provisional", "finalist"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about one image. ``image`` is a path on the machine that answers.

    ``plain``: asked with the bundle's template alone, without hint and exemplars.
    """

    id: str
    image: str
    question: str
    fields: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a runner is asked to do with one bundle.

    Attributes:
        kind: ``answer`` scores: answers every request, in batches, as fast as it can. ``measure`` times: one request
            after another, after warm-up, with memory.
        bundle: path of the bundle's folder.
        min_answers: ``measure``: least number of timed answers of each process.
        deadline_s: seconds of silence, by phase (``load``, ``warmup``, ``work``), after which the runner is killed. It
            speaks at the start of a phase and with each answer or chunk of answers, though at most once a second.
        answer_s: seconds that an answer may take on average, so that a runner which speaks without end is killed too.
        sustained_s: ``measure``: least time over which each process answers; 0 is a burst of ``min_answers``.
    """

    kind: Literal["answer", "measure"]
    bundle: str
    requests: tuple[Request, ...]
    min_answers: int = 11
    deadline_s: Mapping[str, float] = field(default_factory=lambda: {"load": 600.0, "warmup": 120.0, "work": 300.0})
    answer_s: float = 30.0
    sustained_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds after which the runner is killed whatever it says: each phase's silence once, and every answer."""
        answers = MOST_UNTIMED + max(self.min_answers, len(self.requests))
        return sum(self.deadline_s.values()) + self.sustained_s + self.answer_s * answers


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

    @property
    def inter_token_ms(self) -> float | None:
        """Mean time between the tokens, (E2E - TTFT) / (n - 1) in milliseconds; null with fewer than two tokens."""
        n = len(self.token_ms)
        return (self.e2e_ms - self.ttft_ms) / (n - 1) if n > 1 else None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The result of an ``answer`` job.

    Attributes:
        work_s: wall time of answering alone.
        memory_peak_bytes: null where the caller had heard enough before all was answered.
    """

    answers: tuple[Answer, ...]
    load_s: float
    work_s: float
    memory_peak_bytes: int | None
    properties: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Process:
    """What one fresh process measured of a bundle: raw samples, and what the runtime says of its own settings.

    Attributes:
        load_s: of a warm load: the bundle's files were verified just before, so they come from the page cache.
        first_ms: the first answer after loading.
        warmup_answers: untimed answers before the timed ones.
        memory_peak_bytes, memory_baseline_bytes: VmHWM of the runner, and its resident size before the bundle loaded.
            Not a control group's peak (``properties["memory.group_peak"]``): the kernel charges a file's pages to the
            group that read them first, so that it hangs on what ran before. Measured, five runs of a bundle of 0.3 MB
            on openvino: VmHWM 147 to 148 MB, the group 60 MB, since the libraries were in the page cache already.
        accelerator_peak_bytes: the most that the runtime took of an accelerator's memory, which no resident size
            counts (torch: ``max_memory_reserved``, without CUDA's own context); null where it does not say.
        energy_j: joules per timed answer above idle; null where there is no reading.
        idle_w: watts before the process began, which ``energy_j`` is above; null where there is no reading.
        began_s, ended_s: of the timed answers, on the clock of the measurement's trace.
        outliers: places in ``timings`` whose ``e2e_ms`` lies beyond Tukey's fences; they are kept.
        trend: p50 of the last minute over that of the first (of the halves, where it was shorter); null if too short.
        disturbed_p50_ms: where every attempt at this process was disturbed, the p50 of those that were not kept.
    """

    load_s: float
    first_ms: float
    warmup_answers: int
    timings: tuple[Timing, ...]
    memory_peak_bytes: int
    memory_baseline_bytes: int
    energy_j: float | None
    idle_w: float | None
    properties: Mapping[str, str]
    began_s: float = 0.0
    ended_s: float = 0.0
    outliers: tuple[int, ...] = ()
    trend: float | None = None
    disturbed_p50_ms: tuple[float, ...] = ()
    accelerator_peak_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """Peak memory in all: of the machine and of an accelerator, although the two may peak at different moments."""
        return self.memory_peak_bytes + (self.accelerator_peak_bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One look at the device's sensors, ``t_s`` seconds after the measurement began; null where there is no sensor.

    ``flags``: what throttles the device at this moment, in the words of the sensor's own documentation.
    """

    t_s: float
    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of a ``measure`` job: what each process measured, a verdict, and the device's state meanwhile.

    Attributes:
        verdict: ``valid``; ``labelled`` (usable, with ``reasons``; so is the best of several attempts that were all
            disturbed); ``invalid`` (not to be used: the device slept meanwhile).
        reasons: why the verdict is not ``valid``; empty where it is.
        mode: ``provisional`` is one process (during search), ``finalist`` at least five.
        energy_source: where the energy comes from (``rapl``, ``nvml``, ``rapl+nvml``, ``ina3221``, ``pmic``), above
            the idle power just before; or why there is none.
        trace: readings of the device's sensors while it measured, at 2 to 10 Hz.
        platform: settings of the device that bear on speed (governor, power mode, boot id) when it began.
        retries: why each earlier attempt at one of the processes was invalid.
        regime: ``burst``: so many answers; ``sustained``: answers over a given time.
    """

    verdict: Literal["valid", "labelled", "invalid"]
    reasons: tuple[str, ...]
    mode: Mode
    processes: tuple[Process, ...]
    energy_source: str
    trace: tuple[Reading, ...] = ()
    platform: Mapping[str, str] = field(default_factory=dict)
    retries: tuple[str, ...] = ()
    regime: Literal["burst", "sustained"] = "burst"

    @property
    def timings(self) -> tuple[Timing, ...]:
        """The timed answers of all processes."""
        return tuple(timing for process in self.processes for timing in process.timings)

    @property
    def load_s(self) -> float:
        """The median of the processes' warm loads."""
        return statistics.median(process.load_s for process in self.processes)

    @property
    def memory_peak_bytes(self) -> int:
        """The largest peak of any process, an accelerator's memory included."""
        return max(process.peak_bytes for process in self.processes)

    @property
    def energy_j(self) -> float | None:
        """Joules per answer above idle, the median of the processes; null where one of them has none."""
        found = [process.energy_j for process in self.processes if process.energy_j is not None]
        return statistics.median(found) if found and len(found) == len(self.processes) else None


class JobFailed(Exception):
    """A job ended in a fault; OOM, CRASH and TIMEOUT are results about the configuration."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(f"{fault}: {reason}")
        self.fault = fault
        self.reason = reason


class Silent(JobFailed):
    """Nothing was heard of a device for as long as patience went: its agent does not run, or the way to it is cut."""


class Unkillable(JobFailed):
    """A process of the runner outlived SIGKILL: nothing can be measured on the device before it is restarted."""


def encode(message: Any) -> str:
    """A message as one line of JSON."""
    return json.dumps(asdict(message), separators=(",", ":"), allow_nan=False)
