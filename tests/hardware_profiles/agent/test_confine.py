"""What a runner is kept from, tried by a runner that tries."""

import os
import sys
from pathlib import Path

import pytest

from hardware_profiles.agent import confine
from hardware_profiles.agent.confine import Confine, describe, environment, unreadable
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Job
from tests.boards import script

TRIES = """
import os, socket
def tried(what):
    try: return str(what())
    except OSError as error: return type(error).__name__ + " " + str(error.errno)
def loopback():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0)); server.listen()
        with socket.create_connection(server.getsockname(), timeout=5): return "ok"
begin()
say("warm", properties={
    "write": tried(lambda: put(BUNDLE + "/new", "x")), "read": tried(lambda: Path(BUNDLE, "file").read_text()),
    "keys": tried(lambda: os.listdir(KEYS)), "loopback": tried(loopback),
    "network": tried(lambda: socket.create_connection(("192.0.2.1", 9), timeout=5)),
    "environment": " ".join(sorted(os.environ)), "core": str(__import__("resource").getrlimit(4))})
work()
"""

needs_namespaces = pytest.mark.skipif(
    not confine._namespaces(), reason="the kernel refuses new namespaces to this user"
)


@needs_namespaces
def test_a_runner_reaches_neither_network_nor_keys_and_cannot_change_its_bundle(
    timed_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    bundle, keys = tmp_path / "bundle", tmp_path / "identity"
    for folder in (bundle, keys):
        folder.mkdir()
        (folder / "file").write_text("what is in it")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = f"BUNDLE, KEYS = {str(bundle)!r}, {str(keys)!r}\n"
    result = run_job(
        replace(timed_job, bundle=str(bundle)), command=script(names + TRIES), confine=Confine(hidden=(keys,))
    )
    said = result.properties
    assert said["write"] == "OSError 30"
    assert said["read"] == "what is in it"
    assert said["keys"] == "[]"
    assert said["loopback"] == "ok"
    assert said["network"] == "OSError 101"
    assert "HF_TOKEN" not in said["environment"].split()
    assert "OMP_NUM_THREADS" in said["environment"].split()
    assert said["core"] == "(0, 0)"
    assert said["isolation.network"] == "none"
    assert (keys / "file").read_text() == "what is in it"
    assert not (bundle / "new").exists()


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


def test_isolation_is_described() -> None:
    said = describe()
    assert set(said) == {"user", "network", "files", "memory", "processes", "time", "environment"}
    if os.getuid() == 0:
        closed = unreadable(Path(sys.executable).resolve(), 65534, 65534)
        assert closed is None or "may not read" in said["user"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_root_agents_runner_becomes_somebody_else_where_that_one_can_read_what_it_must(
    timed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter of this environment may be unreadable to others; the system's own is not."""
    system = Path("/usr/bin/python3")
    if not system.exists():
        pytest.skip("there is no system interpreter")
    monkeypatch.setattr(confine, "unreadable", lambda path, uid, gid: None)
    monkeypatch.setattr(confine, "JAIL", (str(system), "-I", "-S", "-c", Path(confine.JAIL[-1]).read_text()))
    code = script("import os; begin(); say('warm', properties={'uid': str(os.getresuid())}); work()")
    result = run_job(timed_job, command=(str(system), *code[1:]))
    assert result.properties["uid"] == "(65534, 65534, 65534)"
    assert result.properties["isolation.user"] == "nobody"
