"""What a runner is kept from, tried by a runner that tries."""

import os
import pwd
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hardware_profiles.agent import confine
from hardware_profiles.agent.confine import Confine, describe, environment, unreadable
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Job
from tests.boards import script

TRIES = """
import ctypes, os, re, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(what):
    try: return str(what())
    except OSError as error: return type(error).__name__ + " " + str(error.errno)
def called(result):
    return "done" if result == 0 else "errno " + str(ctypes.get_errno())
def loopback():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0)); server.listen()
        with socket.create_connection(server.getsockname(), timeout=5): return "ok"
def unhidden():
    libc.umount2(STATE.encode(), 2)
    libc.unshare(0x10020000)  # into namespaces of its own, with every capability there
    return called(libc.umount2(STATE.encode(), 2)) + " " + seen()
def seen():
    return " ".join(sorted(str(path.relative_to(STATE)) for path in Path(STATE).rglob("*")))
begin()
say("warm", properties={
    "write": tried(lambda: put(BUNDLE + "/new", "x")), "read": tried(lambda: Path(BUNDLE, "file").read_text()),
    "state": seen(), "write_state": tried(lambda: put(STATE + "/new", "x")), "image": Path(IMAGE).read_text(),
    "agents": tried(lambda: os.listdir(f"/proc/{os.getppid()}/root{STATE}")),
    "capabilities": " ".join(sorted(set(re.findall("^Cap...:\\t(.*)$", Path("/proc/self/status").read_text(), re.M)))),
    "loopback": tried(loopback), "uid": str(os.getuid()), "privileges": str(libc.prctl(39, 0, 0, 0, 0)),
    "network": tried(lambda: socket.create_connection(("192.0.2.1", 9), timeout=5)),
    "environment": " ".join(sorted(os.environ)), "core": str(__import__("resource").getrlimit(4)),
    "unhidden": unhidden()})
work()
"""

needs_namespaces = pytest.mark.skipif(
    not confine._namespaces(), reason="the kernel refuses new namespaces to this user"
)


@pytest.fixture
def held(timed_job: Job) -> Iterator[tuple[Job, Path]]:
    """A job whose files are in an agent's folder, and that folder; it is where anybody may pass, unlike pytest's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield _held(timed_job, Path(folder) / "state")


def _held(timed_job: Job, state: Path) -> tuple[Job, Path]:
    job = state / "jobs" / "one"
    for name in ("identity/key", "audit.jsonl", "jobs/one/bundle/file", "jobs/one/images/abc", "jobs/two/images/def"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("what is in it")
    state.chmod(0o700)
    requests = tuple(replace(one, image=str(job / "images/abc")) for one in timed_job.requests)
    return replace(timed_job, bundle=str(job / "bundle"), requests=requests), state


def names(job: Job, state: Path) -> str:
    return f"BUNDLE, IMAGE, STATE = {job.bundle!r}, {job.requests[0].image!r}, {str(state)!r}\n"


@needs_namespaces
def test_a_runner_reaches_its_own_files_alone_and_no_network(
    held: tuple[Job, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, state = held
    before = sorted(state.rglob("*"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = run_job(job, command=script(names(job, state) + TRIES), confine=Confine(hidden=(state,)))
    said = result.properties
    own = "jobs jobs/one jobs/one/bundle jobs/one/bundle/file jobs/one/images jobs/one/images/abc"
    assert said["write"] == said["write_state"] == "OSError 30"
    assert said["read"] == said["image"] == "what is in it"
    assert said["state"] == own
    assert said["unhidden"] in (f"errno 1 {own}", f"errno 22 {own}")
    assert said["agents"].startswith("PermissionError")
    assert said["capabilities"].split()[0] == "0000000000000000"
    assert said["privileges"] == "1"
    assert said["loopback"] == "ok"
    assert said["network"] == "OSError 101"
    assert "HF_TOKEN" not in said["environment"].split()
    assert "OMP_NUM_THREADS" in said["environment"].split()
    assert said["core"] == "(0, 0)"
    assert said["isolation.network"] == "none"
    assert sorted(state.rglob("*")) == before


def test_the_environment_has_no_secrets() -> None:
    given = {"PATH": "/bin", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "OPENVINO_API_KEY": "x", "LC_ALL": "C"}
    assert environment(given) == {"PATH": "/bin", "LC_ALL": "C", **confine.OFFLINE}


def test_what_a_user_may_not_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    inside = folder / "file"
    inside.write_text("x")
    tmp_path.chmod(0o755)
    others = next((parent for parent in reversed(tmp_path.parents) if not parent.stat().st_mode & 0o001), None)
    uid, gid = os.getuid() + 54321, os.getgid() + 54321
    folder.chmod(0o700)
    assert unreadable(inside, uid, gid) == (others or folder)
    assert unreadable(inside, os.getuid(), os.getgid()) is None
    folder.chmod(0o755)
    inside.chmod(0o640)
    assert unreadable(inside, uid, gid) == (others or inside)
    assert unreadable(folder / "not there", os.getuid(), os.getgid()) is None
    folder.chmod(0o700)
    assert unreadable(folder, uid, gid, [folder, *folder.parents]) is None


def test_a_runner_that_stays_root_says_what_is_closed_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwnam("nobody")
    python = tmp_path / "python"
    python.touch(mode=0o600)
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr(confine, "_code", lambda: [python])
    became, told = confine._user(("nobody",), [], ())
    assert became is None
    closed = unreadable(python, user.pw_uid, user.pw_gid)
    assert told == (
        f"none: the user nobody cannot read {python}, because {closed} is closed to it; "
        "install vlmfront and its Python where all may read; the runner is root without its capabilities"
    )


def test_what_is_said_of_isolation_is_what_a_runner_finds(held: tuple[Job, Path]) -> None:
    job, state = held
    said = describe(state)
    found = run_job(job, command=script(names(job, state) + TRIES), confine=Confine(hidden=(state,))).properties
    assert said["user"] == found["isolation.user"]
    assert (f"uid {found['uid']}" in said["user"]) == (os.getuid() != 0)
    assert ("runner is root" in said["user"]) == (found["uid"] == "0")
    assert said["files"].startswith("none: ") == ("identity" in found["state"])
    assert said["network"].startswith("none: ") == (found["isolation.network"] != "none")
    assert said["memory"].startswith("none: ") == found["isolation.memory"].startswith("no limit: ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_root_agents_runner_becomes_somebody_else_though_the_agents_folder_is_closed(
    held: tuple[Job, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter of this environment may be unreadable to others; the system's own is not."""
    system = Path("/usr/bin/python3")
    job, state = held
    if not system.exists() or unreadable(state.parent.parent, 65534, 65534):
        pytest.skip("there is no system interpreter, or no folder for temporary files that anybody may use")
    monkeypatch.setattr(confine, "_code", lambda: [system])
    monkeypatch.setattr(confine, "JAIL", (str(system), "-I", "-S", "-c", Path(confine.JAIL[-1]).read_text()))
    code = script(names(job, state) + TRIES)
    found = run_job(job, command=(str(system), *code[1:]), confine=Confine(hidden=(state,))).properties
    assert found["isolation.user"] == "nobody"
    assert found["uid"] == "65534"
    assert found["image"] == "what is in it"
    assert found["agents"].startswith("PermissionError")
