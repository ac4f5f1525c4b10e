"""Case 13: memory runs out beside the agent: its runner dies first; then the agent, which its supervisor starts again.

The supervisor here does what systemd does for the lines of the agent's own unit file: Restart, RestartSec and
OOMScoreAdjust. The memory is that of a control group around both, so that it is the kernel that chooses and kills.
"""

import configparser
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware_profiles.agent import groups
from hardware_profiles.devices.upload import pack
from tests.faults.bench import NEVER, Bench, asked, runs, until
from tests.faults.hosts import Host

LIMIT = 400 << 20
LEASE = "00000000-0000-4000-8000-000000000001"
JOB = "00000000-0000-4000-8000-000000000002"
CAP_SYS_RESOURCE = 1 << 24  # without it nobody may make the kernel spare a process more; see capabilities(7)
ENTER = 'echo "$1" > /proc/self/oom_score_adj; echo $$ > "$2/cgroup.procs"; shift 2; exec "$@"'


class Supervised(Bench):
    """The device with a supervisor: the agent that dies of a signal is started again."""

    @property
    def events(self) -> str:
        """The file of a group that counts its kills."""
        return "memory.oom_control" if (self.group.folders[0] / "memory.oom_control").exists() else "memory.events"

    def supervise(self, group: groups.Group) -> None:
        unit = self.unit()
        assert (unit["Restart"], unit["OOMPolicy"]) == ("on-failure", "continue")
        assert unit["OOMScoreAdjust"] == "-500"
        self.restart_s = float(unit["RestartSec"])
        self.adjust = unit["OOMScoreAdjust"] if effective() & CAP_SYS_RESOURCE else str(adjusted(os.getpid()))
        self.group, self.deaths, self.closing = group, list[int](), threading.Event()
        self.listens = threading.Semaphore(0)
        self.keeper = threading.Thread(target=self._keep)
        self.keeper.start()
        assert self.listens.acquire(timeout=20)

    def unit(self) -> "configparser.SectionProxy":
        """The [Service] section of the unit file that the agent prints."""
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(subprocess.run(self.command("serve", "--systemd"), capture_output=True, text=True).stdout)
        return parser["Service"]

    def _keep(self) -> None:
        self.before = ("sh", "-c", ENTER, "sh", self.adjust, str(self.group.folders[0]))
        while not self.closing.is_set():
            self.start()
            assert self.process
            assert self.process.stdout
            self.listens.release()
            died = self.process.wait()
            self.process.stdout.close()
            if died >= 0:  # on-failure: an agent that was asked to end stays ended
                return
            self.deaths.append(-died)
            self.closing.wait(self.restart_s)

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def close(self) -> None:
        self.closing.set()
        if self.process:
            self.process.terminate()
        self.keeper.join(20)
        self.process = None
        super().close()
        for left in self.group.folders[0].glob("vlmfront-*"):  # of a runner whose agent was killed last
            left.rmdir()
        self.group.remove()


@pytest.fixture
def bench(tmp_path: Path, host: Host) -> Iterator[Supervised]:
    layout, why = groups.find()
    assert layout is not None, why
    device = Supervised(tmp_path / "bench")
    host.meet(device)
    device.supervise(groups.Group(layout, LIMIT))
    host.remember(device)
    try:
        yield device
    finally:
        device.close()


def effective() -> int:
    """The capabilities of this process, as a mask."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def resident(pid: int) -> int:
    """Bytes; see proc_pid_statm(5)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def adjusted(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_case_13_the_runner_dies_before_the_agent_and_the_agent_is_started_again(
    bench: Supervised, host: Host, bundle: Path, image: Path, aside: ThreadPoolExecutor
) -> None:
    """The runner has some memory, as one with a model has: where the adjustment is not granted, that alone decides."""
    with host.open() as device:
        result = aside.submit(device.answer, bundle, asked(image, "hold much"), cancel=NEVER)
        first = bench.executed()
        until(lambda: resident(first.pid) > 100 << 20)
        agent = bench.pid
        assert (adjusted(agent), adjusted(first.pid)) == (int(bench.adjust), 1000)
        os.kill(agent, signal.SIGUSR1)  # it takes ten times the group's memory
        until(lambda: bench.deaths)
        assert not runs(agent)
        assert bench.deaths == [signal.SIGKILL]
        (of_runner,) = bench.group.folders[0].glob(f"vlmfront-{agent}-*")
        assert bench.group.oom_kills == 1
        assert "oom_kill 1" in (of_runner / bench.events).read_text()
        assert not runs(first.pid)  # nobody but the kernel could have ended it yet
        assert bench.listens.acquire(timeout=20)
        second = bench.executed(2)
        assert bench.pid != agent
        assert (adjusted(bench.pid), adjusted(second.pid)) == (int(bench.adjust), 1000)
        bench.go()
        assert result.result(30).answers[0].text.split()[0] == str(second.pid)
    assert [one.question for one in bench.executions()] == ["hold much", "hold much"]
    assert list((bench.state / "jobs").iterdir()) == []


def test_case_13_a_greedy_runner_leaves_the_agent_alone(
    bench: Supervised, host: Host, bundle: Path, image: Path
) -> None:
    with host.calls(bench) as call:
        call.take(LEASE)
        call.submit(JOB, pack("answer", bundle, asked(image, "greedy")))
        assert call.fault(JOB)["fault"] == "OOM"
        assert call.take(LEASE).epoch == 1
    assert bench.deaths == []
