"""The energy figure: joules of an answer, above what the device draws when nothing is asked."""

from hardware_profiles.messages import Measurement
from objectives.trial import Figure

LEAST_PROCESSES = 5


def energy_figure(measurement: Measurement) -> Figure:
    """``energy_j``: the median of the processes' joules an answer; null where one has no reading, or none above idle.

    With five processes or more the interval is their whole range, which encloses the median with a confidence of
    1 - 2 / 2^5 = 93.75 % (order statistics): the most that a finalist's five have, so not quite the 95 % of other
    figures. One process says nothing of its interval.
    """
    found = [process.energy_j for process in measurement.processes if process.energy_j is not None]
    value = measurement.energy_j
    if measurement.verdict == "invalid" or value is None or value <= 0:
        return Figure(value=None)
    if len(found) < LEAST_PROCESSES:
        return Figure(value=value, n=len(found))
    return Figure(value=value, low=min(found), high=max(found), n=len(found))
