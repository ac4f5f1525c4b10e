import errno
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hardware_profiles.agent.identity import Paired
from hardware_profiles.agent.serve import invite
from hardware_profiles.agent.state import count_start
from hardware_profiles.certificates import identity_in, make
from hardware_profiles.held import locked
from hardware_profiles.wire import PROTOCOLS, Hello, LeaseRequest, PairRequest, dump, parse
from spaces.errors import BadInput
from tests.door import AGENT, call, serving
from tests.hardware_profiles.devices.scripted import wait_for

HOSTS_ONLY = ("httpx", "optuna", "pydantic", "rich", "torch", "typer", "yaml")


def agent(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "VLMFRONT_AGENT_STATE"}
    return subprocess.run(
        [*AGENT, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def test_serve_pair_hello_unpair_and_a_restart(tmp_path: Path) -> None:
    state, host = tmp_path / "state", identity_in(tmp_path / "host", "host")
    with serving(state) as (process, ready):
        assert ready["pid"] == process.pid
        shown = agent("pair", "--state", state)
        token = shown.stdout.splitlines()[0]
        assert shown.stdout.splitlines()[-1] == f"vlmfront device add NAME 127.0.0.1:{ready['port']} {token}"
        assert "vlmfront-agent serve --host 0.0.0.0" in shown.stderr
        certificate, _, secret = token.partition("::")
        assert certificate == ready["fingerprint"]
        assert call(ready, state, None, "GET", "/v1/hello")[0] == 401
        asked = dump(PairRequest(secret=secret, certificate=host.pem, name="laptop"))
        assert call(ready, state, None, "POST", "/v1/pair", asked)[0] == 204
        status, body = call(ready, state, host, "GET", "/v1/hello")
        assert status == 200
        hello = parse(Hello, body)
        assert hello.protocols == PROTOCOLS
        assert hello.facts.threads == len(os.sched_getaffinity(0))
        second = agent("serve", "--port", "0", "--state", state)
        assert second.returncode == 2
        assert re.fullmatch(r"vlmfront-agent: another agent serves \S+; .*\n", second.stderr)
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert process.stderr
        assert process.stderr.read() == ""
    with serving(state) as (process, ready):
        assert call(ready, state, host, "GET", "/v1/hello")[0] == 200
        assert json.loads(agent("paired", "--state", state, "--json").stdout)[0]["name"] == "laptop"
        assert "laptop" in agent("paired", "--state", state).stdout
        assert json.loads(agent("unpair", "laptop", "--state", state, "--json").stdout) == {"unpaired": "laptop"}
        assert call(ready, state, host, "GET", "/v1/hello")[0] == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines]
    for event in ("started", "token made", "not paired", "paired", "stopped", "unpaired"):
        assert event in events
    kept = [path for path in state.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")]
    assert kept == []


def test_status_says_who_has_the_device_and_what_it_keeps(tmp_path: Path) -> None:
    state, hosts = tmp_path / "state", {name: identity_in(tmp_path / name, name) for name in ("laptop", "server")}
    state.mkdir()
    idle = json.loads(agent("status", "--state", state, "--json").stdout)
    assert (idle["serving"], idle["address"], idle["holder"], idle["paired"]) == (False, "", None, [])
    for name, host in hosts.items():
        Paired(state).add(name, host.pem)
    with serving(state) as (process, ready):
        lease = dump(LeaseRequest(ttl_s=60.0))
        for name in ("laptop", "server"):
            assert call(ready, state, hosts[name], "PUT", f"/v1/leases/{uuid4()}", lease)[0] == 200
        (state / "blobs" / ("0" * 64)).write_bytes(b"x" * 12_345)

        def look() -> Any:
            return json.loads(agent("status", "--state", state, "--json").stdout)

        wait_for(lambda: look()["waiting"])
        found = look()
        assert (found["serving"], found["address"]) == (True, f"127.0.0.1:{ready['port']}")
        assert (found["holder"], found["waiting"]) == ("laptop", ["server"])
        assert sorted(found["paired"]) == ["laptop", "server"]
        assert (found["running"], found["queued"], found["kept"], found["blobs_bytes"]) == (None, 0, 0, 12_345)
        assert found["runtimes"]["openvino"]
        shown = agent("status", "--state", state).stdout
        for words in ("held by laptop", "serving 127.0.0.1", "none runs; 0 queued"):
            assert words in shown
        process.terminate()
        process.wait(timeout=20)
    assert "not serving" in agent("status", "--state", state).stdout
    assert json.loads(agent("status", "--state", state, "--json").stdout)["holder"] is None


def test_a_token_can_be_made_before_the_agent_ever_served(tmp_path: Path) -> None:
    made = agent("pair", "--state", tmp_path / "state", "--json")
    document = json.loads(made.stdout)
    assert document["expires_s"] == 600
    assert document["address"] == f"{socket.gethostname()}:7433"
    assert document["serving"] is False
    start = f"vlmfront-agent serve --host 0.0.0.0 --state {tmp_path / 'state'}"
    assert re.fullmatch(rf"No agent serves \S+/state now, .*: {re.escape(start)}\n", made.stderr)
    with serving(tmp_path / "state") as (_, ready):
        assert document["token"].startswith(ready["fingerprint"] + "::")


@pytest.mark.skipif(not shutil.which("ip"), reason="ip(8) is not here, which says the address independently")
def test_a_token_for_every_address_comes_with_one_that_others_reach(tmp_path: Path) -> None:
    (tmp_path / "address").write_text('{"host": "0.0.0.0", "port": 7555}')
    asked = ["ip", "-j", "route", "get", "192.0.2.1"]
    routes = json.loads(subprocess.run(asked, capture_output=True, check=False).stdout or "[]")
    source = f"{routes[0]['prefsrc']}:7555" if routes else None
    with locked(tmp_path / "lock", exclusive=True):
        made = json.loads(agent("pair", "--state", tmp_path, "--json").stdout)
        assert (made["address"], made["elsewhere"], made["serving"]) == (f"{socket.gethostname()}:7555", source, True)
        shown = agent("pair", "--state", tmp_path)
    token, *lines = shown.stdout.splitlines()
    assert lines[-1] == f"vlmfront device add NAME {source or made['address']} {token}"
    assert ("no address that others could reach" in shown.stderr) == (source is None)


def test_a_device_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    (tmp_path / "address").write_text('{"host": "::", "port": 7555}')
    monkeypatch.setattr("socket.socket.connect", unreachable)
    assert invite(tmp_path).elsewhere is None


@pytest.mark.parametrize("arguments", [("status",), ("paired",), ("unpair", "nobody")])
def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = agent(*arguments, "--state", tmp_path / "typo")
    assert done.returncode == 2
    assert done.stderr == (
        f"vlmfront-agent: there is no folder {tmp_path / 'typo'}; name the one that the agent serves with --state.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["status", "paired"])
def test_who_only_looks_makes_nothing_also_on_a_read_only_disk(tmp_path: Path, verb: str) -> None:
    Paired(tmp_path).add("laptop", make("laptop")[1])
    for name in ("lock", "address", "journal.jsonl", "line.json"):
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    assert agent(verb, "--state", tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before
    read_only = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    binds = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; '
    if subprocess.run([*read_only, binds, "sh", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    looks = [*read_only, binds + '! touch "$1/x"; shift; exec "$@"', "sh", str(tmp_path), *AGENT]
    done = subprocess.run([*looks, verb, "--state", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "laptop" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("content", ["-3", "many"])
def test_a_count_of_starts_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "epoch"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"epoch does not count the agent's starts .*another folder"):
        count_start(path)
    assert path.read_text() == content


def test_every_verb_has_an_example_and_says_where_the_agents_folder_is() -> None:
    for verb in ("serve", "pair", "unpair", "paired", "status"):
        shown = " ".join(agent(verb, "--help").stdout.split())
        assert f"Example: vlmfront-agent {verb}" in shown
        assert "else ~/.local/state/vlmfront-agent" in shown


def test_a_folder_that_was_there_is_closed_to_other_users(tmp_path: Path) -> None:
    """They could read images in it, and stop the agent by holding the lock of its audit log."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    assert agent("pair", "--state", state).returncode == 0
    assert state.stat().st_mode & 0o777 == 0o700


def test_an_agent_with_a_parent_dies_with_it(tmp_path: Path) -> None:
    script = (
        "import json, subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    serve = [*AGENT, "serve", "--port", "0", "--json", "--with-parent", "--state", str(tmp_path / "state")]
    with subprocess.Popen(
        [sys.executable, "-c", script, *serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        ready = json.loads(parent.stdout.readline())
        handle = os.pidfd_open(ready["pid"])
        parent.kill()
    with os.fdopen(handle) as ended:
        assert select.select([ended], [], [], 20)[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--port", "70000"), "argument --port: a port from 0 to 65535 is expected, not '70000'; see"),
        (("serve", "--port", "x"), "argument --port: a port from 0 to 65535 is expected, not 'x'; see"),
        (("nothing",), "see vlmfront-agent --help"),
        (("serve", "--port", "0", "--host", "192.0.2.1"), "cannot be listened on"),
        (("serve", "--disk", "plenty"), "a size like 20GB is expected"),
        (("unpair", "nobody"), "no paired host is called 'nobody'"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = agent(*arguments, "--state", tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("vlmfront-agent: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_state_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = agent("pair", "--state", tmp_path / "file" / "state")
    assert done.returncode == 2
    assert "name another --state" in done.stderr


def test_the_unit_file_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    done = agent("serve", "--systemd", "--host", "0.0.0.0", "--disk", "5GB")
    lines = done.stdout.splitlines()
    assert (
        f"ExecStart={' '.join(AGENT)} serve --host 0.0.0.0 --port 7433 --state /var/lib/vlmfront-agent --disk 5GB"
        in lines
    )
    for line in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "Restart=on-failure",
        "OOMScoreAdjust=-500",
        "OOMPolicy=continue",
    ):
        assert line in lines


def test_the_agent_loads_nothing_that_only_a_host_has() -> None:
    script = "import json, sys; import hardware_profiles.agent.cli; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True).stdout)
    assert "h11" in loaded
    assert set(HOSTS_ONLY) & set(loaded) == set()
