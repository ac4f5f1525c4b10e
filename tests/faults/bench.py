"""A device on the bench: the real agent as a process of its own, hosts that it knows, and what is asked of it.

Its runner is ``scripted_runner.py`` unless a test asks for the real one. Whether a job was executed, and how often, is
seen on the device, by the runner's own lines.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.bundle import Execution, seal
from hardware_profiles.certificates import Identity, identity_in
from hardware_profiles.messages import Request
from spaces.prompting import Prompt

HERE = Path(__file__).parent
LAUNCHER = HERE / "launcher.py"
LOOPBACK = "127.0.0.1"
NEVER = threading.Event()
TTL_S = 5.0  # the least that a lease may last


@dataclass(frozen=True)
class Started:
    """One start of the runner."""

    pid: int
    question: str


class Bench:
    """A device. ``start`` and ``kill`` its agent as often as needed; the port and the state stay."""

    def __init__(self, folder: Path, *, address: str = LOOPBACK, before: Sequence[str] = ()) -> None:
        """``before``: the command in front of the agent's."""
        self.folder, self.address, self.before = folder, address, tuple(before)
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self.identity: Identity = identity_in(self.state / "identity", "agent")
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def runner(self) -> list[str]:
        return [sys.executable, "-I", str(HERE / "scripted_runner.py"), str(self.folder)]

    def command(self, *arguments: str, **settings: Any) -> list[str]:
        """``vlmfront-agent`` with the launcher's settings."""
        given = json.dumps({"runner": self.runner} | settings)
        return [*self.before, sys.executable, "-I", str(LAUNCHER), given, *arguments, "--state", str(self.state)]

    def start(self, **settings: Any) -> None:
        """Start the agent, and wait until it listens. ``runner=None`` has it start the real one."""
        where = ["--host", self.address, "--port", str(self.port), "--json"]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve", *where, **settings), stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.heard_of(self.process)

    def heard_of(self, process: "subprocess.Popen[str]") -> None:
        """Take in what an agent says when it listens."""
        assert process.stdout
        line = process.stdout.readline()
        assert line, (self.folder / "agent.log").read_text()
        self.port = json.loads(line)["port"]

    def kill(self) -> None:
        """End the agent as a crash would, and nothing else."""
        assert self.process
        self.process.kill()
        self._reap()

    def close(self) -> None:
        if self.process:
            self.process.terminate()
            self._reap()
        for one in self.executions():
            if runs(one.pid) and b"scripted_runner" in Path(f"/proc/{one.pid}/cmdline").read_bytes():
                os.kill(one.pid, signal.SIGKILL)

    def _reap(self) -> None:
        assert self.process
        process, self.process = self.process, None
        with process:
            try:
                process.wait(15)
            finally:
                process.kill()

    def go(self) -> None:
        """Let every runner that holds, now or later, answer."""
        (self.folder / "go").touch()

    def executions(self) -> list[Started]:
        path = self.folder / "executions"
        return [Started(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def executed(self, number: int = 1) -> Started:
        """The execution of this number, once it has begun."""
        until(lambda: len(self.executions()) >= number)
        return self.executions()[number - 1]

    def audit(self, event: str) -> list[str]:
        """The details of this event's lines in the audit log."""
        path = self.state / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line["detail"] for line in lines if line["event"] == event]

    def blob(self, digest: str) -> Path:
        return self.state / "blobs" / digest.removeprefix("sha256:")

    def part(self, digest: str) -> bytes:
        """What the device has of a blob that is not whole."""
        return next(self.blob(digest).parent.glob(f"{self.blob(digest).name}?*")).read_bytes()


def sealed_bundle(folder: Path, content: bytes = b"\0" * 1000) -> Path:
    """A bundle that no runtime could load, though every check of its files passes; ``content`` is its weights'."""
    folder.mkdir(parents=True)
    (folder / "model.xml").write_text("<net/>")
    (folder / "model.bin").write_bytes(content)
    execution = Execution()
    seal(
        folder, runtime="openvino", prompt=Prompt(), max_new_tokens=8, execution=execution, candidate={}, provenance={}
    )
    return folder


def asked(image: Path, question: str = "what ?") -> tuple[Request, ...]:
    return (Request(id="0", image=str(image), question=question),)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def until(holds: Callable[[], Any], seconds: float = 20.0) -> float:
    """Wait until something holds; how long it took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - begun
