"""A real agent in a process of its own, and the real host that is paired with it."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.identity import Paired
from hardware_profiles.bundle import MANIFEST, Execution, open_bundle, seal
from hardware_profiles.certificates import identity_in
from hardware_profiles.devices import open_device
from hardware_profiles.devices.known import KnownDevice, host_identity, remember
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.devices.upload import Packed
from hardware_profiles.messages import Request
from hardware_profiles.wire import WireJob, WireRequest, dump
from spaces.canonical import file_digest
from spaces.prompting import Prompt
from tests.door import serving
from tests.faults.agents import runner

AGENTS = (sys.executable, str(Path(__file__).with_name("agents.py")))
NEVER = threading.Event()
TMPFS = 'mount -t tmpfs -o size="$1" none "$2" && cp -a "$2.pairs/." "$2" && shift 2 && exec "$@"'
"""Run by sh in a mount namespace of its own: a small file system over the agent's folder, gone with the agent."""


def unshare() -> tuple[str, ...]:
    """What gives a command a mount namespace of its own on this machine; empty if nothing does."""
    for way in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    return ()


@dataclass
class Bench:
    """An agent that runs, and how to reach what it has. ``state`` is its folder as this process sees it."""

    state: Path
    process: "subprocess.Popen[str]"
    runs: Path
    opened: ExitStack = field(default_factory=ExitStack)

    def open(self) -> RemoteDevice:
        """The device, by the real host; closed when the test ends."""
        device = open_device("bench", cancel=NEVER, patience_s=20.0)
        self.opened.callback(device.close)
        return device

    def executions(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0

    def blobs(self) -> dict[str, int]:
        """Name -> size of what lies in the folder of blobs."""
        return {path.name: path.stat().st_size for path in (self.state / "blobs").iterdir()}

    def events(self) -> list[str]:
        """The lines of the audit log, without their times."""
        return [json.loads(line)["event"] for line in (self.state / "audit.jsonl").read_text().splitlines()]


Start = Callable[..., Bench]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an agent that this user's host is paired with. ``code``: of its runner; null is the product's own.

    ``tmpfs``: size of a file system of its own for the agent's folder.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ExitStack() as stack:

        def begin(
            *arguments: str, code: str | None = "", tmpfs: str = "", settings: Mapping[str, Any] | None = None
        ) -> Bench:
            state, runs = tmp_path / "state", tmp_path / "runs"
            pairs = tmp_path / "state.pairs" if tmpfs else state
            agent = identity_in(pairs / "identity", "agent")
            Paired(pairs).add("host", host_identity().pem)
            given = {
                **(settings or {}),
                **({} if code is None else {"runner": runner(runs, *([code] if code else []))}),
            }
            command = [*AGENTS, json.dumps(given)]
            if tmpfs:
                if not unshare():
                    pytest.skip("this machine gives nobody a mount namespace")
                state.mkdir()
                command = [*unshare(), "sh", "-c", TMPFS, "sh", tmpfs, str(state), *command]
            process, ready = stack.enter_context(serving(state, *arguments, command=command))
            if tmpfs:
                state = Path(f"/proc/{process.pid}/root{state}")
            remember(
                KnownDevice(
                    name="bench",
                    address=f"{ready['host']}:{ready['port']}",
                    certificate=agent.pem,
                    fingerprint=agent.fingerprint,
                    paired="2026-01-01T00:00:00+00:00",
                )
            )
            made = Bench(state, process, runs)
            stack.enter_context(made.opened)
            return made

        yield begin


def sealed(folder: Path, files: Mapping[str, bytes], **execution: Any) -> Path:
    """A bundle of these files, for the runtime ``openvino``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    pins = Execution(**execution)
    seal(folder, runtime="openvino", prompt=Prompt(), max_new_tokens=8, execution=pins, candidate={}, provenance={})
    return folder


def questions(folder: Path, count: int = 3) -> tuple[Request, ...]:
    """Questions about one image."""
    image = folder / "image.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\nrest")
    return tuple(Request(id=str(number), image=str(image), question="what ?") for number in range(count))


def packed(bundle: Path, requests: tuple[Request, ...], manifest: str | None = None) -> Packed:
    """A job whose manifest nobody has looked at: what a host without this product's checks may send."""
    text = (bundle / MANIFEST).read_text() if manifest is None else manifest
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST]
    blobs = {f"sha256:{file_digest(path)}": path for path in [*files, *(Path(one.image) for one in requests)]}
    asked = tuple(
        WireRequest(id=one.id, image=f"sha256:{file_digest(Path(one.image))}", question=one.question)
        for one in requests
    )
    body = dump(WireJob(kind="answer", manifest=text, requests=asked))
    known = open_bundle(bundle, verify=False).manifest
    ids, content = tuple(one.id for one in requests), file_digest(bundle / MANIFEST) + text
    return Packed(body=body, content=content, asked=ids, silent_s=600.0, blobs=blobs, manifest=known)
