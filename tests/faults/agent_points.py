"""Fault points of an agent: a scripted session of a real host with it is hit at one change of the agent's folder."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from hardware_profiles.certificates import identity_in
from hardware_profiles.devices import open_device
from hardware_profiles.devices.lease import DeviceLease
from hardware_profiles.devices.pairing import add_device, parse_token
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import Lease, PairRequest, dump
from spaces.errors import BadInput
from tests.door import call
from tests.faults.agent_bench import AGENTS, NEVER, questions, sealed
from tests.faults.agents import runner
from tests.faults.inject import Plan

LIMIT_S = 60.0  # of one point
TRIES = 50  # of one step of the session
FILES = {"config.json": b"{}", "sub/more.json": b"[1]"}
UUID = re.compile(r"[0-9a-f-]{36}")
T = TypeVar("T")


class Forks:
    """A process that has imported the agent, and forks one in a moment."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, folder: Path, name: str, arguments: list[str], plan: Plan | None) -> int:
        """The process id of an agent's command; it says things in files of the folder that ``name`` begins."""
        order = {
            "arguments": [*arguments, "--state", str(folder / "state")],
            "plan": asdict(plan) if plan else None,
            "settings": {"runner": runner(folder / "runs")},
            "stdout": str(folder / f"{name}.out"),
            "stderr": str(folder / f"{name}.err"),
            "code": str(folder / f"{name}.code"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def forks() -> Iterator[Forks]:
    with subprocess.Popen(AGENTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Forks(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(LIMIT_S)


class Session:
    """Pair, take the lease, upload, submit, hear the result, acknowledge, and a second job.

    The agent may die or have no room.

    An agent that dies is started again under its address, without faults; one that has no room gets some when the host
    has heard of it. ``epochs`` are those that the host was given, in order; ``failures`` what it was told.
    """

    def __init__(self, folder: Path, forked: Forks, plan: Plan | None) -> None:
        folder.mkdir()
        self.folder, self.state = folder, folder / "state"
        self.epochs: list[int] = []
        self.failures: list[str] = []
        self.used: list[str] = []
        self.starts = 0
        self._forks, self._plan, self._unpaired = forked, plan, plan
        self._port, self._pid = 0, 0
        self._up, self._closing = threading.Event(), threading.Event()
        self._end = time.monotonic() + LIMIT_S
        os.mkfifo(folder / "agent.out")
        os.mkfifo(folder / "pair.out")
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def whole(self) -> list[str]:
        """The texts of the answers, once everything is done and the agent has ended."""
        try:
            self._pair()
            bundle = sealed(self.folder / "bundle", FILES)
            asked = questions(self.folder)
            device: RemoteDevice = self._step(
                lambda: open_device("bench", cancel=NEVER, owner="run", patience_s=LIMIT_S / 2)
            )
            found = self._step(lambda: device.answer(bundle, asked, cancel=NEVER))
            again = self._step(lambda: device.answer(bundle, asked[:2], cancel=NEVER))  # acknowledges the first
            assert again.answers == found.answers[:2]
            self._make_room()
            device.close()
            for token in self.used:
                assert self._step(partial(self._redeem, token), (OSError,)) == (401, "UNAUTHENTICATED")
        finally:
            self._closing.set()
            self._stop()
            self._keeper.join(LIMIT_S)
        assert (self.folder / "agent.code").read_text() == "0"
        return [one.text for one in found.answers]

    def _stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def _keep(self) -> None:
        plan = self._plan
        code = self.folder / "agent.code"
        while not (self._closing.is_set() and code.exists()) and self.starts < TRIES:
            self.starts += 1
            code.unlink(missing_ok=True)
            arguments = ["serve", "--with-parent", "--json", "--port", str(self._port)]
            self._pid = self._forks.start(self.folder, "agent", arguments, plan)
            with (self.folder / "agent.out").open() as said:
                if line := said.readline():
                    self._port = json.loads(line)["port"]
                    self._up.set()
                    if self._closing.is_set():  # a kill came while it ended
                        self._stop()
                said.read()  # ends when the agent does
            self._up.clear()
            if plan and plan.mode == "full":
                self._make_room()
            elif plan:
                plan = None

    def _pair(self) -> None:
        token = ""
        while True:
            token = token or self._token()
            try:
                pair = partial(add_device, "bench", f"127.0.0.1:{self._port}", token, patience_s=5.0)
                self._step(pair, (JobFailed,))
            except BadInput as refusal:
                if "refused the token" not in str(refusal):
                    raise
                self.failures.append(str(refusal))
                self.used.append(token)
                token = ""
            else:
                self.used.append(token)
                return

    def _token(self) -> str:
        """What ``vlmfront-agent pair`` prints, run again where it does not."""
        for _ in range(TRIES):
            assert self._up.wait(LIMIT_S)
            (self.folder / "pair.code").unlink(missing_ok=True)
            plan, self._unpaired = self._unpaired, None
            self._forks.start(self.folder, "pair", ["pair", "--json"], plan)
            with (self.folder / "pair.out").open() as said:
                line = said.read()
            if line:
                return str(json.loads(line)["token"])
            self.failures.append("pair")
            if plan and plan.mode == "full":
                self._make_room()
        raise AssertionError("no token was printed")

    def _step(self, what: Callable[[], T], faults: tuple[type[Exception], ...] = (JobFailed, BadInput)) -> T:
        for _ in range(TRIES):
            assert time.monotonic() < self._end, self.failures
            assert self._up.wait(LIMIT_S), self.failures
            try:
                return what()
            except faults as error:
                self.failures.append(str(error))
                self._make_room()
                NEVER.wait(0.02)  # until a dead agent is known to be one
        raise AssertionError(self.failures)

    def _make_room(self) -> None:
        if self._plan and self._plan.mode == "full":
            Path(f"{self._plan.log}.room").touch()

    def _redeem(self, token: str) -> tuple[int, str]:
        stranger = identity_in(self.folder / "stranger", "stranger")
        body = dump(PairRequest(secret=parse_token(token)[1], certificate=stranger.pem, name="stranger"))
        ready = {"host": "127.0.0.1", "port": self._port}
        status, said = call(ready, self.state, None, "POST", "/v1/pair", body)
        return status, json.loads(said)["code"]


def hit(
    folder: Path, forked: Forks, monkeypatch: pytest.MonkeyPatch, mode: Literal["log", "kill", "full"], at: int = 0
) -> tuple[list[str], Session]:
    """A session whose agent is hit at a change, carried to its end and looked at; the changes, up to the fault."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    plan = Plan(root=str(folder / "state"), log=f"{folder}.log", mode=mode, at=at)
    session = Session(folder, forked, plan)
    ask = DeviceLease._ask

    def noted(lease: DeviceLease) -> Lease:
        held = ask(lease)
        if held.epoch is not None:
            session.epochs.append(held.epoch)
        return held

    with monkeypatch.context() as patched:
        patched.setattr(DeviceLease, "_ask", noted)
        texts = session.whole()
    changes = Path(plan.log).read_text().splitlines()
    if mode != "log":
        assert len(changes) >= at, f"the session ended after {len(changes)} changes"
        changes = changes[:at]
    check(session, texts, changes, mode)
    return changes, session


def check(session: Session, texts: list[str], changes: list[str], mode: str) -> None:
    """Everything is as if nothing had happened. Reads files as they are, without our readers."""
    state = session.state
    assert texts == [hashlib.sha256(f"{place}what ?".encode()).hexdigest()[:8] for place in range(len(texts))]
    assert session.epochs == sorted(session.epochs)
    assert session.epochs
    assert int((state / "epoch").read_text()) >= (session.starts if mode == "log" else 1)
    said = "".join(path.read_text() for path in session.folder.glob("*.err"))
    assert "Traceback" not in said, said[:3000]
    runs = len((session.folder / "runs").read_text().splitlines())
    laid_out = max((place for place, change in enumerate(changes) if "layout.py" in change), default=0)
    began = any("orphans.py:mark" in change for change in changes[laid_out:])
    kept = any(change.startswith("fsync") and "jobs.py:_emit" in change for change in changes[laid_out:])
    if mode != "full":
        assert 2 <= runs <= 2 + (mode == "kill" and began and not kept), f"{runs} runs"
    check_folder(state, session.failures.count("pair"))


def check_folder(state: Path, unprinted: int) -> None:
    """Every file is what its name says; no temporary file is left, no half blob, no job, no token that was printed."""
    names = {path.relative_to(state).as_posix() for path in state.rglob("*")}
    assert not [name for name in names if name.endswith((".tmp", ".part"))], names
    assert not [name for name in names if name.startswith("jobs/")], names
    assert len(list((state / "tokens").iterdir())) <= unprinted
    assert "runner.json" not in names
    blobs = {path.name: path.read_bytes() for path in (state / "blobs").iterdir()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in blobs.items()} == dict(
        zip(blobs, blobs, strict=True)
    )
    assert sorted(blobs.values()) == sorted(FILES.values())  # the image went with its job
    audited = [line for line in (state / "audit.jsonl").read_text().splitlines() if line.endswith("}")]
    assert len(audited) >= len((state / "audit.jsonl").read_text().splitlines()) - 1  # one may have been cut off
    assert "journal damaged" not in [json.loads(line)["event"] for line in audited], audited
    journal = [json.loads(line) for line in (state / "journal.jsonl").read_text().splitlines()]
    submitted = {line["uuid"] for line in journal if line["change"] == "submitted"}
    acknowledged = {uuid for line in journal if line["change"] == "acknowledged" for uuid in line["uuids"]}
    assert len(acknowledged) >= 2
    assert submitted <= acknowledged
    assert all(UUID.fullmatch(uuid) for uuid in acknowledged)
