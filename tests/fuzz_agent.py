"""What nobody should send to an agent, sent to a real one over TLS, at random but repeatably; and looks at it between.

The agent may write into its own folder and a temporary one alone: all else is read-only to it, where this machine lets
a process have mounts of its own. All the while a job runs, so that what is submitted waits; after each batch it ends,
with its result, which no agent could give whose worker had died.
"""

import json
import os
import random
import re
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args
from uuid import UUID

from hardware_profiles.agent.identity import Paired
from hardware_profiles.certificates import identity_in
from hardware_profiles.wire import Code, Hello, Problem, WireJob, WireRequest, dump, parse
from tests.faults.agent_bench import AGENTS, unshare
from tests.hardware_profiles.agent.conftest import PNG, manifest_of, sha256
from tests.hardware_profiles.agent.test_headers import SOUND, tensors

BATCH = 500
MOST_GROWN = 64 << 20  # bytes of the agent's memory
MOST_FILES, MOST_THREADS = 12, 16  # open ones beyond those at the start; of threads in all
CODES = set(get_args(Code)) - {"INTERNAL"}
OWN = re.compile(
    r"(identity|paired|tokens|blobs|jobs)|identity/(key|certificate)\.pem|identity/lock|lock|epoch|address|runner\.json"
    r"|audit(\.1)?\.jsonl|audit\.lock|journal\.jsonl|paired/[0-9a-f]{64}\.json|blobs/[0-9a-f]{64}(\.part)?"
    r"|jobs/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/.*)?|line\.json|\.(runner|line)\.json\..*\.tmp"
)
READ_ONLY = """
mount --bind "$1" "$1" && mount --bind "$TMPDIR" "$TMPDIR"
while read -r _ where kind _; do
  case "$kind" in proc|sysfs|cgroup*|dev*|mqueue) continue ;; esac
  [ "$where" = "$1" ] || [ "$where" = "$TMPDIR" ] || mount -o remount,bind,ro "$where"
done < /proc/self/mounts
shift; exec "$@"
"""
RUNNER = """
import json, os, sys, time
def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)
job = json.loads(sys.stdin.readline())
say("phase", phase="load"); say("loaded", load_s=1.0); say("phase", phase="work")
parent = os.getppid()
while not os.path.exists(GO + job["requests"][0]["id"]) and os.getppid() == parent:
    time.sleep(0.02)
say("answers", answers=[{"id": job["requests"][0]["id"], "text": "x", "tokens": 1}])
say("done", work_s=0.5, memory_peak_bytes=1)
"""
LEASE = "00000000-0000-4000-8000-000000000001"
OTHER_LEASES = [LEASE[:-1] + digit for digit in "2345"]
FILES = {"config.json": b"{}", "sub/weights.safetensors": tensors(SOUND, b"x" * 23)}


class Target:
    """The agent, and what is said to it. ``found`` counts what came back: by kind of input, the code or status."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, seed: int) -> None:
        self.folder, self.state, self.seed = folder, folder / "state", seed
        self.found: dict[str, Counter[str]] = {}
        self._process, self._go = process, 0
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        self._address = (ready["host"], ready["port"])
        agent = identity_in(self.state / "identity", "agent")
        self._tls = {}
        for name in ("host", "nobody"):
            context = ssl.create_default_context(cadata=agent.pem)
            context.check_hostname = False
            if name == "host":
                host = identity_in(folder / "host", "host")
                context.load_cert_chain(host.certificate, host.key)
            self._tls[name] = context
        self._kept: ssl.SSLSocket | None = None
        self._epoch = ""
        self._busy = ""
        self._begin()
        self._first = self._taken()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """A well-formed request of the paired host on a connection that is kept; every refusal is a known Problem."""
        named = {"Host": "a", "Content-Length": str(len(body)), "Lease-Epoch": self._epoch} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        content = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
        for attempt in range(2):
            if self._kept is None:
                self._kept = self._connect("host")
            try:
                self._kept.sendall(content)
                return self._reply(self._kept, method)
            except (ConnectionError, ssl.SSLError):
                self._drop()
                if attempt:
                    raise
        raise AssertionError

    def raw(self, name: str, content: bytes) -> tuple[list[int], list[str]]:
        """Bytes on a connection of their own, until the agent ends it: each reply's status, and the codes."""
        came = b""
        with self._connect(name) as client, suppress(OSError):
            with suppress(OSError):  # what was refused half way has a reply all the same
                client.sendall(content)
                socket.socket.shutdown(client, socket.SHUT_WR)
            while part := client.recv(65536):
                came += part
        return self._read(came)

    def plain(self, content: bytes) -> bytes:
        """Bytes without TLS."""
        came = b""
        with socket.create_connection(self._address, timeout=30) as client, suppress(OSError):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                came += part
        return came

    def submit(self, job: WireJob | bytes, chance: random.Random) -> str:
        """A job that is taken back and forgotten where the agent accepts it; the code, or the status."""
        path = f"/v1/jobs/{UUID(int=chance.getrandbits(128), version=4)}"
        status, body = self.ask("PUT", path, job if isinstance(job, bytes) else dump(job))
        if status == 201:
            for method, at in (("DELETE", path), ("PUT", f"{path}/acknowledged")):
                done, said = self.ask(method, at)
                assert done == 204, said
        return self.code(status, body)

    def upload(self, *contents: bytes) -> None:
        for content in contents:
            path = f"/v1/blobs/sha256:{sha256(content)}"
            if content and self.ask("HEAD", path)[0] == 404:
                status, _ = self.ask("PATCH", path, content, Upload_Offset="0", Upload_Length=str(len(content)))
                assert status in (204, 409), status  # another input may have begun the same one
            self.ask("PUT", path)

    def look(self) -> None:
        """The agent is as it was: it answers, it works, and nothing of it has grown."""
        self._end()
        taken, first = self._taken(), self._first
        assert taken["memory"] < first["memory"] + MOST_GROWN, (first, taken)
        assert taken["files"] <= first["files"] + MOST_FILES, (first, taken)
        assert taken["threads"] <= MOST_THREADS, taken
        assert not list((self.folder / "tmp").iterdir())
        names = [path.relative_to(self.state).as_posix() for path in self.state.rglob("*")]
        assert not [name for name in names if not OWN.fullmatch(name)], names
        said = (self.folder / "stderr").read_text()
        assert "Traceback" not in said, said[-3000:]
        self._begin()

    def close(self) -> None:
        self._drop()
        self._process.terminate()
        assert self._process.wait(20) == 0

    @staticmethod
    def code(status: int, body: bytes) -> str:
        return parse(Problem, body).code if status >= 400 and body else str(status)

    def _begin(self) -> None:
        """Take the lease anew and have a job run."""
        status, body = self.ask("PUT", f"/v1/leases/{LEASE}", b'{"ttl_s": 120}')
        assert status == 200, body
        self._epoch = str(json.loads(body)["epoch"])
        self.upload(*FILES.values(), PNG)
        self._go += 1
        self._busy = f"/v1/jobs/{UUID(int=self._go)}"
        request = WireRequest(id=f"{self.seed}-{self._go}", image=f"sha256:{sha256(PNG)}", question="what ?")
        job = WireJob(kind="answer", manifest=json.dumps(manifest_of(FILES)), requests=(request,))
        status, body = self.ask("PUT", self._busy, dump(job))
        assert status == 201, body

    def _end(self) -> None:
        (self.folder / f"go{self.seed}-{self._go}").touch()
        body, events = b"", [""]
        for _ in range(10):  # an event at a time, at worst
            _, body = self.ask("GET", f"{self._busy}/events?after=0&wait=30")
            events = [json.loads(line)["event"] for line in body.splitlines()]
            if events[-1:] in (["result"], ["fault"]):
                break
            self.ask("GET", f"{self._busy}/events?after={len(events)}&wait=30")
        assert events[-1] == "result", body
        assert self.ask("PUT", f"{self._busy}/acknowledged")[0] == 204
        assert parse(Hello, self.ask("GET", "/v1/hello")[1]).protocols == (1, 1)

    def _taken(self) -> dict[str, int]:
        here = Path(f"/proc/{self._process.pid}")
        fields = dict(line.split(":", 1) for line in (here / "status").read_text().splitlines())
        return {
            "memory": int(fields["VmRSS"].split()[0]) * 1024,
            "files": len(list((here / "fd").iterdir())),
            "threads": int(fields["Threads"]),
        }

    def _connect(self, name: str) -> ssl.SSLSocket:
        plain = socket.create_connection(self._address, timeout=60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls[name].wrap_socket(plain, server_hostname=self._address[0])

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _reply(self, client: ssl.SSLSocket, method: str) -> tuple[int, bytes]:
        came = b""
        while b"\r\n\r\n" not in came:
            part = client.recv(65536)
            if not part:
                raise ConnectionResetError("no reply")
            came += part
        header, _, body = came.partition(b"\r\n\r\n")
        first, *lines = header.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        if method == "HEAD":  # one that was too long to be known as such has a body, and is the last
            length, body = 0, b""
        while len(body) < length:
            body += client.recv(65536)
        assert len(body) == length
        if headers.get("connection") == "close":
            self._drop()
        status = int(first.split()[1])
        if status >= 400 and method != "HEAD":
            assert parse(Problem, body).code in CODES, body
        assert status != 500
        return status, body

    @staticmethod
    def _read(came: bytes) -> tuple[list[int], list[str]]:
        statuses = [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3}) ", came)]
        codes = [one.decode() for one in re.findall(rb'"code":"([A-Z_]*)"', came)]
        assert 500 not in statuses, came[:500]
        assert set(codes) <= CODES, came[:500]
        assert bool(statuses) == bool(came), came[:500]
        return statuses, codes


@contextmanager
def target(folder: Path, seed: int) -> Iterator[Target]:
    """An agent with one paired host, in a folder of its own."""
    state, temporary = folder / "state", folder / "tmp"
    temporary.mkdir()
    identity_in(state / "identity", "agent")
    Paired(state).add("host", identity_in(folder / "host", "host").pem)
    settings = json.dumps({"runner": f"GO = {str(folder / 'go')!r}\n{RUNNER}"})
    way = unshare()
    alone = [*way, "sh", "-c", READ_ONLY, "sh", str(state)] if way else []
    environment = {**os.environ, "TMPDIR": str(temporary)}
    serve = [
        *AGENTS,
        settings,
        "serve",
        "--with-parent",
        "--json",
        "--port",
        "0",
        "--disk",
        "0.2MB",
        "--state",
        str(state),
    ]
    with (
        (folder / "stderr").open("wb") as errors,
        subprocess.Popen([*alone, *serve], stdout=subprocess.PIPE, stderr=errors, env=environment) as process,
    ):
        try:
            made = Target(process, folder, seed)
            if way:
                mounts = Path(f"/proc/{process.pid}/mounts").read_text().splitlines()
                assert all(line.split()[3].startswith("ro") for line in mounts if line.split()[1] in ("/", "/tmp"))
            yield made
            made.close()
        finally:
            process.kill()
