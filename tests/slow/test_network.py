"""Nothing phones home: in a network namespace whose only interface is loopback, nothing tries to leave it.

The namespace has its own counters in /proc/net, which start at nought: what found no route, UDP packets (a look-up of a
name is one, wherever its server is), and connections opened that no listener inside accepted. A search may speak to an
agent that it started itself; nothing else listens there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LEAVING = ("Ip.OutNoRoutes", "Ip6OutNoRoutes", "Udp.OutDatagrams", "Udp6OutDatagrams")
PROBE = """
import fcntl, json, pathlib, socket, struct, subprocess, sys
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP: see netdevice(7)
def counted():
    found = {}
    for name in ("snmp", "netstat"):
        lines = pathlib.Path("/proc/net", name).read_text().splitlines()
        for keys, values in zip(lines[::2], lines[1::2]):
            kind = keys.split(":")[0]
            found |= {f"{kind}.{key}": int(value) for key, value in zip(keys.split()[1:], values.split()[1:])}
    six = pathlib.Path("/proc/net/snmp6")
    if six.exists():
        found |= {line.split()[0]: int(line.split()[1]) for line in six.read_text().splitlines()}
    return found
code = subprocess.run(sys.argv[1:]).returncode
print(json.dumps({"code": code, "counted": counted()}))
"""


def isolated(command: list[str]) -> dict[str, int]:
    """The attempts to leave a fresh network namespace, by counter, of a command that ran well in it."""
    outside = ["unshare", "--net", "--map-root-user", sys.executable, "-c", PROBE]
    env = os.environ | {"HF_HUB_OFFLINE": "0", "DO_NOT_TRACK": "0"}
    done = subprocess.run([*outside, *command], capture_output=True, text=True, timeout=600, check=False, env=env)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] == 0, done.stderr
    counted = said["counted"]
    return {name: counted.get(name, 0) for name in LEAVING} | {
        "not accepted": counted["Tcp.ActiveOpens"] - counted["Tcp.PassiveOpens"]
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "attempt",
    [
        "s.connect(('192.0.2.1', 80))",
        "s.connect(('127.0.0.1', 9))",
        "socket.create_connection(('2001:db8::1', 80))",
        "socket.getaddrinfo('example.org', 80)",
    ],
)
def test_the_counters_see_an_attempt(attempt: str) -> None:
    code = f"import contextlib, socket\ns = socket.socket()\nwith contextlib.suppress(OSError):\n    {attempt}\n"
    assert sum(isolated([sys.executable, "-c", code]).values()) > 0


@pytest.mark.slow
def test_a_listener_of_its_own_is_no_attempt() -> None:
    code = "import socket\nown = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(own.getsockname())"
    assert not any(isolated([sys.executable, "-c", code]).values())


@pytest.mark.slow
def test_a_search_attempts_no_connection(project: Callable[..., Path]) -> None:
    axes: dict[str, dict[str, Any]] = {
        "model": {"path": ["models/a"]},
        "pruning": {"ffn": 0.5},
        "tuning": {"method": "lora", "steps": 1},
        "visual_tokens": {"keep": 0.5},
        "quantization": {"weights": "int4", "group_size": 32, "method": "awq_scale_estimation"},
        "runtime": {"name": ["openvino", "torch"]},
    }
    for knob in ("weights", "group_size", "method"):
        axes["quantization"][knob] = {"choices": [axes["quantization"][knob]], "when": {"runtime.name": ["openvino"]}}
    axes["visual_tokens"]["keep"] = {"choices": [0.5], "when": {"runtime.name": ["openvino"]}}
    config = project(axes=axes, budget="2trials", workers=1)
    run = config.parent / "run"
    verbs = [sys.executable, "-m", "search.cli"]
    tried = isolated([*verbs, "search", str(config), "--run", str(run)])
    assert not any(tried.values()), tried
    picture = str(next((config.parent / "images").iterdir()))
    asked = ["--image", picture, "--question", "what colour is this ?", "--field", "kind=colour"]
    bundles = {
        json.loads((path / "manifest.json").read_text())["runtime"]: path for path in (run / "bundles").iterdir()
    }
    assert set(bundles) == {"openvino", "torch"}
    asking = [["run", str(bundle), *asked] for bundle in bundles.values()]
    for verb in (["pick", str(run)], ["report", str(run)], *asking, ["doctor"]):
        tried = isolated([*verbs, *verb])
        assert not any(tried.values()), (verb, tried)
