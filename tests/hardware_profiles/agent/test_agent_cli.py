import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hardware_profiles.agent.identity import Paired
from hardware_profiles.certificates import identity_in
from hardware_profiles.wire import PROTOCOLS, Hello, LeaseRequest, PairRequest, dump, parse
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
        assert agent("unpair", "laptop", "--state", state).returncode == 0
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
    with serving(tmp_path / "state") as (_, ready):
        assert document["token"].startswith(ready["fingerprint"] + "::")


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
        (("serve", "--port", "70000"), "cannot be listened on"),
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
    assert "Traceback" not in done.stderr
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
