import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.facts import boot_id
from hardware_profiles.agent.identity import Paired
from hardware_profiles.devices import check
from hardware_profiles.profile import profile_of
from hardware_profiles.wire import WireJob
from search.cli import main
from search.device_cli import _lines
from tests.hardware_profiles.devices.scripted import HELLO, Agent, measurement, small_bundle

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vlmfront(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, for a user with nothing yet: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vlmfront", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    running = Agent(tmp_path / "agent")
    yield running
    running.close()


def add(vlmfront: Command, agent: Agent, *more: str) -> tuple[int, str, str]:
    return vlmfront("device", "add", "bench", f"127.0.0.1:{agent.port}", agent.token(), *more)


def test_a_device_is_added_listed_and_removed(vlmfront: Command, agent: Agent) -> None:
    code, out, err = add(vlmfront, agent, "--json")
    assert (code, err) == (0, "")
    added = json.loads(out)
    assert (added["name"], added["fingerprint"]) == ("bench", agent.identity.fingerprint)
    code, out, _ = vlmfront("device", "list", "--json")
    assert [one["name"] for one in json.loads(out)["devices"]] == ["local", "bench"]
    assert "certificate" not in out
    code, out, _ = vlmfront("device", "list")
    assert f"127.0.0.1:{agent.port}" in out
    [known_there] = Paired(agent.state).hosts().values()
    code, out, _ = vlmfront("device", "remove", "bench", "--json")
    assert (code, json.loads(out)["run_on_device"]) == (0, f"vlmfront-agent unpair {known_there.name}")
    assert [one["name"] for one in json.loads(vlmfront("device", "list", "--json")[1])["devices"]] == ["local"]


def test_an_agent_has_one_name(vlmfront: Command, agent: Agent) -> None:
    add(vlmfront, agent)
    code, out, err = vlmfront("device", "add", "again", f"localhost:{agent.port}", agent.token())
    assert (code, out) == (2, "")
    assert "this agent is paired already, as 'bench'; use that name, or remove it first: vlmfront device remove" in err
    assert vlmfront("device", "remove", "bench")[0] == 0
    assert vlmfront("device", "add", "again", f"localhost:{agent.port}", agent.token())[0] == 0


def test_where_it_is_not_known_how_the_device_calls_this_host_its_list_does(
    vlmfront: Command, agent: Agent, tmp_path: Path
) -> None:
    add(vlmfront, agent)
    path = tmp_path / "config" / "vlmfront" / "devices" / "bench.json"
    before = json.loads(path.read_text())
    del before["host"]
    path.write_text(json.dumps(before))
    code, out, _ = vlmfront("device", "remove", "bench")
    assert code == 0
    assert "vlmfront-agent unpair NAME (NAME as vlmfront-agent paired lists it)" in out


def test_a_check_shows_what_the_device_is_and_the_way_to_it(vlmfront: Command, agent: Agent) -> None:
    facts = replace(
        HELLO.facts,
        sensors={"energy": "none: no RAPL"},
        isolation={"network": "a namespace of its own"},
        platform={"governor": "performance"},
    )
    agent.script.hello = replace(HELLO, facts=facts, boot_id=boot_id(), disk_free_bytes=10**9)
    add(vlmfront, agent)
    agent.script.before = lambda asked: time.sleep(0.3) if asked.path == "/v1/hello" else None
    agent.script.calls.clear()
    code, out, err = vlmfront("device", "check", "bench", "--json")
    assert (code, err) == (0, "")
    assert agent.script.count("GET", "/v1/hello") == 1, "it describes the device, which takes a while"
    found = json.loads(out)
    assert found["here"] is True
    assert 0 < found["round_trip_ms"] < 300
    assert found["upload_mb_s"] > 0
    assert abs(found["clock_skew_s"]) < 1
    assert found["repeated"] is None
    assert sum(map(len, agent.script.blobs.values())) == 16 << 20
    assert agent.script.line == []
    code, out, _ = vlmfront("device", "check", "bench")
    for shown in ("openvino 9999.0", "none: no RAPL", "a namespace of its own", "performance", "1.0 GB", "none made"):
        assert shown in out


@pytest.mark.parametrize(
    ("skew_s", "told"), [(-0.04, "+0.0 s"), (0.04, "+0.0 s"), (-0.46, "-0.5 s"), (3.0, "+3.0 s"), (-61.24, "-61.2 s")]
)
def test_the_clocks_are_compared_to_a_decimal_and_never_by_minus_nothing(skew_s: float, told: str) -> None:
    found = check.Checked(
        hello=HELLO,
        profile=profile_of(HELLO.facts),
        here=False,
        round_trip_ms=1.0,
        clock_skew_s=skew_s,
        upload_mb_s=1.0,
        repeated=None,
    )
    assert dict(_lines(found))["clock"] == f"{told} against this host's, to half a second"


def test_a_check_with_a_bundle_measures_three_times(vlmfront: Command, agent: Agent, tmp_path: Path) -> None:
    times = iter((5.0, 6.0, 5.5))
    asked: list[WireJob] = []

    def runs(job: WireJob) -> list[tuple[str, Any]]:
        asked.append(job)
        return [("result", asdict(measurement(next(times))))]

    agent.script.runs = runs
    add(vlmfront, agent)
    code, out, err = vlmfront("device", "check", "bench", "--bundle", str(small_bundle(tmp_path / "bundle")), "--json")
    assert code == 0, err
    repeated = json.loads(out)["repeated"]
    assert repeated["p50_ms"] == [5.0, 6.0, 5.5]
    assert repeated["spread"] == pytest.approx(1 / 5.5)
    assert agent.script.executions == 3
    assert "measurement 3 of 3" in err
    times = iter((5.0, 6.0, 5.5))
    sustained = ("--bundle", str(tmp_path / "bundle"), "--sustained", "60")
    assert vlmfront("device", "check", "bench", *sustained)[0] == 0
    assert [job.sustained_s for job in asked] == [0] * 3 + [60] * 3


def test_a_device_that_does_not_answer_ends_with_one_sentence_and_exit_code_1(
    vlmfront: Command, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.check, "__kwdefaults__", {"patience_s": 0.2})
    add(vlmfront, agent)
    agent.do(agent._listener.close)
    code, out, err = vlmfront("device", "check", "bench")
    assert (code, out) == (1, "")
    assert "bench did not answer for 0 s" in err.splitlines()[-1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, _, err = vlmfront("device", "add", "other", f"127.0.0.1:{port}", f"{'0' * 64}::{'s' * 43}")
    assert code == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "local", "h:1", "t"), "is this machine itself"),
        (("add", "a/b", "h:1", "t"), "is no name"),
        (("add", "bench", "h:x", "t"), "HOST:PORT"),
        (("add", "bench", "h:1", "t"), "FINGERPRINT::SECRET"),
        (("check", "nothing"), "no device is called 'nothing'"),
        (("check", "local", "--bundle", "/nowhere"), "is no bundle"),
        (("check", "local", "--sustained", "60"), "--sustained needs --bundle"),
        (("remove", "nothing"), "no device is called 'nothing'"),
        (("remove", "local"), "is this machine itself"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(vlmfront: Command, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = vlmfront("device", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["add", "list", "check", "remove"])
def test_help_has_an_example(vlmfront: Command, verb: str) -> None:
    code, out, _ = vlmfront("device", verb, "--help")
    assert code == 0
    assert f"Example: vlmfront device {verb}" in out
