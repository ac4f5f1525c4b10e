"""How fast this machine's CPU is, measured in under two seconds: the roofs of its roofline."""

import time
from collections.abc import Callable

from hardware_profiles.profile import Profile, measured

_REPEATS = 9
_SIDE = 768
_NUMBERS = 1 << 25  # 128 MiB of f32: more than the caches of the CPUs that bundles are deployed on
_WIDER = {"bf16": 2.0, "int8": 4.0}
"""Numbers of each dtype in a vector register for one f32: what its dot products do at most for one of f32."""


def measured_here(profile: Profile) -> Profile:
    """The profile of this machine with its memory bandwidth and peak measured.

    The best of nine repetitions on one thread, since a peak is what nothing exceeds: the product of two f32 matrices
    of 768 x 768 (2 n^3 operations) and the sum of 128 MiB. The peak of all threads is that of one times their number;
    other native dtypes have the peak of f32 times the numbers that fit into a register for one of f32.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    a, b, product = (rng.random((_SIDE, _SIDE), dtype=np.float32) for _ in range(3))
    many = np.ones(_NUMBERS, np.float32)
    f32 = profile.threads * 2 * _SIDE**3 / _best(lambda: np.matmul(a, b, out=product))
    peak = {"f32": f32} | {dtype: f32 * _WIDER[dtype] for dtype in profile.dtypes if dtype in _WIDER}
    return measured(profile, many.nbytes / _best(many.sum), peak)


def _best(work: Callable[[], object]) -> float:
    """Seconds of CPU of this process that the quickest of several calls takes, after one that does not count.

    CPU seconds of all threads, so that a linear algebra library with several threads counts as one.
    """
    work()
    return min(_cpu_seconds(work) for _ in range(_REPEATS))


def _cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
