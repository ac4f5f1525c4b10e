"""Case 9: the device never comes back. Its job ends in DEVICE_LOST within the patience, however the line looks."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware_profiles.messages import JobFailed
from tests.faults.bench import NEVER, TTL_S, Bench, asked
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

PATIENCE_S = 1.5
LAST_CALL_S = (
    1.0  # a call that begins at the very end of the patience still gets so long, to connect and to be answered
)
SLACK_S = 1.5


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_case_09_a_device_that_never_returns_is_lost_within_the_patience(
    bench: Bench,
    line: Proxy,
    host: Host,
    bundle: Path,
    image: Path,
    aside: ThreadPoolExecutor,
    short_leases: None,
    silent: bool,
) -> None:
    with host.open(patience_s=PATIENCE_S) as device:
        device._lease.epoch(device._patience(NEVER))
        result = aside.submit(device.answer, bundle, asked(image, "hold"), cancel=NEVER)
        bench.executed()
        gone = time.monotonic()
        if silent:
            line.partition()
        else:
            bench.kill()
            line.cut()
        with pytest.raises(JobFailed, match=r"bench did not answer for \d s") as fault:
            result.result(30)
        took_s = time.monotonic() - gone
        assert fault.value.fault == "DEVICE_LOST"
        assert PATIENCE_S - 0.5 < took_s < PATIENCE_S + 2 * LAST_CALL_S + SLACK_S
        closing = time.monotonic()
    assert time.monotonic() - closing < 2 * TTL_S / 3 + SLACK_S  # a renewal under way, and the farewell
    assert len(bench.executions()) == 1


def test_case_09_a_device_that_is_not_there_at_all_is_lost_within_the_patience(bench: Bench, host: Host) -> None:
    bench.kill()
    begun = time.monotonic()
    with pytest.raises(JobFailed, match="DEVICE_LOST: bench did not answer"), host.open(patience_s=PATIENCE_S):
        pass
    assert PATIENCE_S <= time.monotonic() - begun < PATIENCE_S + SLACK_S
