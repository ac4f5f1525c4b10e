"""Case 12: memory runs out in the runner: OOM with peak and limit, and the agent lives."""

import os

import pytest

from hardware_profiles.agent import groups
from hardware_profiles.agent.confine import Confine
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Job, JobFailed
from tests.boards import script

LIMIT = 160 << 20
GREEDY = "begin(); hoard = []\nwhile True: hoard.append(bytearray(8 << 20))"

needs_groups = pytest.mark.skipif(groups.find()[0] is None, reason=f"no control group: {groups.find()[1]}")


@needs_groups
def test_case_12_oom_within_the_limit_names_peak_and_limit(timed_job: Job) -> None:
    with pytest.raises(JobFailed) as failed:
        run_job(timed_job, command=script(GREEDY), confine=Confine(memory_bytes=LIMIT))
    assert failed.value.fault == "OOM"
    assert failed.value.reason == "the kernel killed the runner at a peak of 160 MiB, limit 160 MiB"


@needs_groups
def test_case_12_the_agent_goes_on_and_leaves_no_group(timed_job: Job) -> None:
    layout = groups.find()[0]
    assert layout is not None
    with pytest.raises(JobFailed, match="OOM"):
        run_job(timed_job, command=script(GREEDY), confine=Confine(memory_bytes=LIMIT))
    result = run_job(timed_job, command=script("begin(); work()"), confine=Confine(memory_bytes=LIMIT))
    assert result.memory_peak_bytes == 300
    assert result.properties["isolation.memory"] == "160 MiB"
    assert 0 < int(result.properties["memory.group_peak"]) <= LIMIT
    assert not list(layout.folders[0].glob(f"vlmfront-{os.getpid()}-*"))


def test_case_12_the_kernel_takes_the_runner_before_the_agent(timed_job: Job) -> None:
    tells = "begin(); say('warm', properties={'adj': Path('/proc/self/oom_score_adj').read_text().strip()}); work()"
    assert run_job(timed_job, command=script(tells)).properties["adj"] == "1000"
