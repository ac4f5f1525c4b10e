"""One measurement of a bundle on this device: fresh processes, their raw samples, and a verdict on them."""

import threading
from collections import Counter
from collections.abc import Sequence

from hardware_profiles.agent.supervisor import RUNNER, Heard, run_job, unheard
from hardware_profiles.messages import Job, Measurement, Mode, Process, Timing

NOISY_CV = 0.10
FINALIST_PROCESSES = 5


def measure(
    job: Job,
    *,
    mode: Mode = "provisional",
    cancel: threading.Event | None = None,
    command: Sequence[str] = RUNNER,
    heard: Heard = unheard,
) -> Measurement:
    """Measure ``job``'s bundle in one fresh process, or in ``FINALIST_PROCESSES`` of them, one after another.

    Raises:
        JobFailed, Cancelled: as :func:`hardware_profiles.agent.supervisor.run_job`.
    """
    processes = []
    number = 1 if mode == "provisional" else FINALIST_PROCESSES
    for done in range(1, number + 1):
        result = run_job(job, cancel=cancel, command=command, heard=heard)
        assert isinstance(result, Process)
        processes.append(result)
        heard("process", {"done": done, "of": number})
    spread = max(scatter(process.timings) for process in processes)
    noise = [] if spread < NOISY_CV else [f"e2e times scatter by {spread:.0%} at equal token counts"]
    return Measurement(
        verdict="labelled" if noise else "valid",
        reasons=tuple(noise),
        mode=mode,
        processes=tuple(processes),
        energy_source="",
    )


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
