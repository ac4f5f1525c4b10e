"""Agents in network namespaces: devices of their own as far as the network goes. Needs root; see ip-netns(8)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

AGENT = (sys.executable, "-I", str(Path(__file__).with_name("paced_agent.py")))
PAIR = (sys.executable, "-I", "-m", "hardware_profiles.agent.cli", "pair", "--json", "--state")
PORT = 7433


class Board:
    """A device: an agent in a namespace at ``10.77.NUMBER.2``, whose runners work the whole time or half of it."""

    def __init__(self, name: str, number: int, how: str, folder: Path) -> None:
        self.name = name
        self.address = f"10.77.{number}.2"
        self.space = f"vlmfront-{name}-{os.urandom(4).hex()}"
        self._link = f"vf{number}-{os.urandom(4).hex()}"  # a namespace takes a while to take its link away
        self._how = how
        self._log = folder / f"{name}.runners"
        self._state = folder / f"{name}.state"
        self._agent: subprocess.Popen[str] | None = None
        self._log.touch()
        self._log.chmod(0o666)
        self._errors = folder / f"{name}.errors"

    def build(self, left: ExitStack) -> None:
        """Make the namespace and the way to it; ``left`` takes them away again."""
        ip("netns", "add", self.space)
        left.callback(ip, "netns", "del", self.space)  # and the link with it
        left.callback(self.kill)
        ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("address", "add", f"{self.address[:-1]}1/24", "dev", self._link)
        ip("link", "set", self._link, "up")
        ip("-n", self.space, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")
        ip("-n", self.space, "link", "set", "lo", "up")

    def start(self) -> None:
        """Start the agent on its state and wait until it listens."""
        inside = ("nsenter", f"--net=/var/run/netns/{self.space}")  # `ip netns exec` would hide /sys/fs/cgroup
        asked = ("serve", "--json", "--host", self.address, "--port", str(PORT), "--state", str(self._state))
        with self._errors.open("a") as errors:
            self._agent = subprocess.Popen(
                [*inside, *AGENT, self._how, str(self._log), *asked],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._agent.stdout
        assert json.loads(self._agent.stdout.readline())["host"] == self.address, self._errors.read_text()

    def kill(self) -> None:
        """SIGKILL to the agent."""
        if self._agent is not None:
            self._agent.kill()
            self._agent.communicate()
            self._agent = None

    def runners(self) -> list[dict[str, Any]]:
        """Every runner that was ever started: ``pid``, ``kind``, ``manifest``."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def token(self) -> tuple[str, str]:
        """The agent's address and a one-time token."""
        said = json.loads(subprocess.run([*PAIR, str(self._state)], check=True, capture_output=True).stdout)
        return said["address"], said["token"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)


def wait_for(happened: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)


def session(pid: int) -> set[int]:
    """What runs of a session, see proc_pid_stat(5); what is dead and not reaped does not."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == pid and state not in "ZX":
            found.add(int(path.parent.name))
    return found
