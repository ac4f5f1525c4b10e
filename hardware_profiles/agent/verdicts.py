"""The verdict on one process's answers, and why: pure functions of what was seen before, meanwhile and after.

``RULES`` is the whole policy, one line for each thing that spoils an attempt (``invalid``: it is repeated) or has to be
known by whoever reads it (``labelled``).
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hardware_profiles.agent.machine import Snapshot
from hardware_profiles.agent.proc import TICK_S
from hardware_profiles.agent.sensors import PI_NOW, PI_SINCE_BOOT
from hardware_profiles.messages import Reading, Timing

NOISY_CV = 0.10
FOREIGN_SHARE, MOST_FOREIGN = 0.05, 0.5
"""Foreign work from which on answers do not count: a share of all processors, and at most so many processors.

A runner on every processor is slowed by the share that others take, and 5 % is what the interval of a p50 allows for
between processes anyway. One process that keeps a processor busy always counts, however many there are. The steady
load of an idle machine is far below: 0.004 of a processor where this was chosen.
"""
NAMED = 5  # processes, at most
FOREIGN_TICKS = 3  # that CPU times are unsure by, where answers took a few hundredths of a second in all
WAKE_S = 0.001  # that the runner may wait in all: a thread that wakes up always waits a little
CLOCK_STEP_S = 0.1  # above what a preemption between two clock readings can look like
SUSPENDED_S = 0.1
GROWTH = 1.10  # of the p50 under sustained load; our choice: as much as answers may scatter (``NOISY_CV``)
Weight: TypeAlias = Literal["invalid", "labelled"]
Verdict: TypeAlias = Literal["valid", "labelled", "invalid"]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One process's answers and the machine around them, from its warm-up to its last answer.

    ``ran_s``, ``waited_s``: over the ``work_s`` seconds of its timed answers alone, for how long the runner's threads
    ran, and were ready to run but had no processor.
    """

    before: Snapshot
    after: Snapshot
    readings: Sequence[Reading] = ()
    timings: Sequence[Timing] = ()
    trend: float | None = None
    work_s: float = 0.0
    ran_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """``says`` gives a reason for each breach of it."""

    device: str
    weight: Weight
    says: Callable[[Watched], list[str]]


def judge(watched: Watched) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict by ``RULES``, with every reason; of an invalid one those that make it so come first."""
    said = [(rule.weight, why) for rule in RULES for why in rule.says(watched)]
    spoilt = [why for weight, why in said if weight == "invalid"]
    noted = [why for weight, why in said if weight == "labelled"]
    return "invalid" if spoilt else "labelled" if noted else "valid", (*spoilt, *noted)


def flagged(*names: str) -> Callable[[Watched], list[str]]:
    """A throttling flag was up in any reading."""

    def says(watched: Watched) -> list[str]:
        up = Counter(flag for reading in watched.readings for flag in reading.flags if flag in names)
        return [f"{flag} in {count} of {len(watched.readings)} readings" for flag, count in up.items()]

    return says


def newly_flagged(*names: str) -> Callable[[Watched], list[str]]:
    """A sticky flag came up: it was not up in the first reading."""

    def says(watched: Watched) -> list[str]:
        first = watched.readings[0].flags if watched.readings else ()
        up = dict.fromkeys(flag for reading in watched.readings for flag in reading.flags)
        return [f"{flag} meanwhile" for flag in up if flag in names and flag not in first]

    return says


def counted(*names: str) -> Callable[[Watched], list[str]]:
    """A counter of events went up."""

    def says(watched: Watched) -> list[str]:
        grown = {name: watched.after.counters.get(name, 0) - watched.before.counters.get(name, 0) for name in names}
        return [f"{name} went up by {step}" for name, step in grown.items() if step]

    return says


def on_accelerator(watched: Watched) -> list[str]:
    """Another process than the runner's has the accelerator open."""
    tasks = {**watched.before.tasks, **watched.after.tasks}
    pids = sorted(watched.before.accelerator | watched.after.accelerator)
    return [
        f"process {pid} ({tasks[pid].command if pid in tasks else 'not visible here'}) has the accelerator open"
        for pid in pids
        if pid not in tasks or tasks[pid].whose == "other"
    ]


def on_cpu(watched: Watched) -> list[str]:
    """Foreign processes took more than is allowed (``FOREIGN_SHARE``); the busiest are named with their programs."""
    spent = {pid: _spent(watched, pid) for pid in watched.after.tasks}
    foreign = {pid: cpu_s for pid, cpu_s in spent.items() if watched.after.tasks[pid].whose == "other"}
    kernel_s = watched.after.kernel_s - watched.before.kernel_s
    unseen = max(0.0, watched.after.busy_s - watched.before.busy_s - sum(spent.values()) - kernel_s)
    total, wall_s = sum(foreign.values()) + unseen, watched.after.at_s - watched.before.at_s
    if total <= _allowed_s(watched):
        return []
    busiest = sorted(foreign, key=foreign.__getitem__, reverse=True)[:NAMED]
    named = [
        f"process {pid} ({watched.after.tasks[pid].command}) {foreign[pid] / wall_s:.2f}"
        for pid in busiest
        if foreign[pid] >= total / 20
    ]
    if unseen >= total / 10:
        named.append(f"processes that ended or are not visible here {unseen / wall_s:.2f}")
    return [f"foreign work took {total / wall_s:.2f} of a processor: {', '.join(named)}"]


def waited(watched: Watched) -> list[str]:
    """The runner had to wait for a processor, whoever had it, while its answers were timed.

    CPU times of others say this only where answers take seconds: they come in ticks, are of the whole machine, and
    begin with the warm-up, so that of 11 answers of 10 ms each may be twice as slow before others' work counts.
    """
    share = watched.waited_s / max(watched.work_s, watched.ran_s, WAKE_S / FOREIGN_SHARE)
    return [f"the runner waited for a processor for {share:.0%} of its time"] if share > FOREIGN_SHARE else []


def by_agent(watched: Watched) -> list[str]:
    """The agent itself, or the search that started it, took more than is allowed of others: a host's files came in."""
    tasks = watched.after.tasks
    total = sum(_spent(watched, pid) for pid, task in tasks.items() if task.whose == "agent")
    wall_s = watched.after.at_s - watched.before.at_s
    return [f"the agent itself took {total / wall_s:.2f} of a processor"] if total > _allowed_s(watched) else []


def _allowed_s(watched: Watched) -> float:
    """CPU seconds that anything but the runner may take meanwhile."""
    share = min(MOST_FOREIGN, FOREIGN_SHARE * watched.after.processors)
    return share * (watched.after.at_s - watched.before.at_s) + FOREIGN_TICKS * TICK_S


def _spent(watched: Watched, pid: int) -> float:
    """CPU seconds of a process meanwhile; all that it has, where it started meanwhile."""
    now, then = watched.after.tasks[pid], watched.before.tasks.get(pid)
    return now.cpu_s - (then.cpu_s if then and then.started == now.started else 0.0)


def suspended(watched: Watched) -> list[str]:
    """The machine slept."""
    slept = watched.after.asleep_s - watched.before.asleep_s
    return [f"the machine was suspended for {slept:.1f} s"] if slept > SUSPENDED_S else []


def clock_stepped(watched: Watched) -> list[str]:
    """The wall clock was set."""
    step = watched.after.wall_s - watched.before.wall_s - (watched.after.asleep_s - watched.before.asleep_s)
    return [f"the wall clock jumped by {step:+.1f} s"] if abs(step) > CLOCK_STEP_S else []


def swapped_in(watched: Watched) -> list[str]:
    """Memory came back from swap."""
    pages = watched.after.swapped_in - watched.before.swapped_in
    return [f"{pages} pages were swapped in"] if pages > 0 else []


def scattered(watched: Watched) -> list[str]:
    """Answers of equally many tokens differ."""
    spread = scatter(watched.timings)
    return [f"e2e times scatter by {spread:.0%} at equal token counts"] if spread >= NOISY_CV else []


def grown(watched: Watched) -> list[str]:
    """Answers slowed down under sustained load."""
    if watched.trend is None or watched.trend < GROWTH:
        return []
    return [f"under sustained load the p50 grew {watched.trend:.2f} times from the first minute to the last"]


RULES: tuple[Rule, ...] = (
    Rule(device="NVML", weight="invalid", says=flagged("HwSlowdown", "HwPowerBrakeSlowdown")),
    Rule(device="NVML", weight="invalid", says=flagged("HwThermalSlowdown", "SwThermalSlowdown")),
    Rule(device="NVML", weight="labelled", says=flagged("SwPowerCap")),
    Rule(device="Jetson", weight="invalid", says=counted("oc1_event_cnt", "oc2_event_cnt")),
    Rule(device="Jetson", weight="labelled", says=counted("oc3_event_cnt")),
    Rule(device="Raspberry Pi", weight="invalid", says=flagged(*PI_NOW.values())),
    Rule(device="Raspberry Pi", weight="labelled", says=newly_flagged(*PI_SINCE_BOOT.values())),
    Rule(device="all", weight="invalid", says=on_accelerator),
    Rule(device="all", weight="invalid", says=on_cpu),
    Rule(device="all", weight="invalid", says=waited),
    Rule(device="all", weight="invalid", says=suspended),
    Rule(device="all", weight="invalid", says=clock_stepped),
    Rule(device="all", weight="invalid", says=swapped_in),
    Rule(device="all", weight="labelled", says=by_agent),
    Rule(device="all", weight="labelled", says=scattered),
    Rule(device="all", weight="labelled", says=grown),
)


def void(watched: Watched) -> bool:
    """Whether the answers are of no use at all: the machine slept meanwhile; a restart leaves none to judge."""
    return bool(suspended(watched))


def scatter(timings: Sequence[Timing]) -> float:
    """Pooled coefficient of variation of e2e times within answers of equally many tokens; 0 where there is none."""
    counts = Counter(len(timing.token_ms) for timing in timings)
    means = {
        count: sum(timing.e2e_ms for timing in timings if len(timing.token_ms) == count) / number
        for count, number in counts.items()
    }
    free = len(timings) - len(counts)
    if free <= 0:
        return 0.0
    squares = sum((timing.e2e_ms / means[len(timing.token_ms)] - 1) ** 2 for timing in timings)
    return float((squares / free) ** 0.5)


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Places of the values beyond Tukey's fences, 1.5 interquartile ranges from the quartiles (Tukey, EDA, 1977)."""
    if len(values) < 4:
        return ()
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    reach = 1.5 * (third - first)
    return tuple(place for place, value in enumerate(values) if not first - reach <= value <= third + reach)


def trend(timings: Sequence[Timing]) -> float | None:
    """The last minute's p50 over the first minute's, or the last half's over the first half's where it was shorter.

    Answers follow one another, so that the sum of their times is the time that passed. Null with under 22 answers.
    """
    if len(timings) < 22:
        return None
    window_ms = min(60e3, sum(timing.e2e_ms for timing in timings) / 2)
    first, last = (statistics.median(_within(order, window_ms)) for order in (timings, timings[::-1]))
    return last / first


def _within(timings: Sequence[Timing], window_ms: float) -> list[float]:
    found: list[float] = []
    passed = 0.0
    for timing in timings:
        if found and passed >= window_ms:
            break
        found.append(timing.e2e_ms)
        passed += timing.e2e_ms
    return found
