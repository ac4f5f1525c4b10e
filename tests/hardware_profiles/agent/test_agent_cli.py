import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hardware_profiles.certificates import identity_in
from hardware_profiles.wire import PROTOCOLS, Hello, PairRequest, dump, parse
from tests.door import AGENT, call, serving

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


def test_a_token_can_be_made_before_the_agent_ever_served(tmp_path: Path) -> None:
    made = agent("pair", "--state", tmp_path / "state", "--json")
    document = json.loads(made.stdout)
    assert document["expires_s"] == 600
    assert document["address"] == f"{socket.gethostname()}:7433"
    with serving(tmp_path / "state") as (_, ready):
        assert document["token"].startswith(ready["fingerprint"] + "::")


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
