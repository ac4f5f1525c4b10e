import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from hardware_profiles.agent.exchange import Asked, Refused, refused
from hardware_profiles.agent.supervisor import Cancelled
from hardware_profiles.certificates import make
from hardware_profiles.devices import connection as module
from hardware_profiles.devices import open_device
from hardware_profiles.devices.connection import Connection, Patience, Unreachable, pinned
from hardware_profiles.devices.known import host_identity
from hardware_profiles.messages import JobFailed
from hardware_profiles.wire import Hello
from tests.faults.proxy import Fault, Proxy
from tests.hardware_profiles.devices.scripted import HELLO, Agent

HEADERS = {"Lease-Epoch": "1"}


@pytest.fixture
def call(agent: Agent, line: Proxy) -> Iterator[Connection]:
    with Connection("bench", f"127.0.0.1:{line.port}", pinned(agent.identity.pem, host_identity())) as made:
        yield made


def patience(limit_s: float = 20.0, **given: object) -> Patience:
    return Patience("bench", cancel=threading.Event(), limit_s=limit_s, **given)  # type: ignore[arg-type]


def said(connection: Connection, how: Patience) -> Hello:
    return connection.read(Hello, connection.call(how, "GET", "/v1/hello").body)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=0),
        Fault(cut_after=200),  # in the handshake
        Fault(way="down", cut_after=100),
        Fault(way="down", corrupt_at=300),  # in the server's encrypted part of it
        Fault(corrupt_at=700),  # in ours
        Fault(way="down", cut_after=1000),
        Fault(delay_s=0.01),
    ],
)
def test_a_call_goes_through_on_a_bad_line(call: Connection, line: Proxy, fault: Fault) -> None:
    line.plan(fault, fault)
    assert said(call, patience()) == HELLO
    assert line.connections == (1 if fault.delay_s else 3)


@pytest.mark.parametrize(("cuts", "times"), [(1, 0), (2, 1), (3, 1)])
def test_a_silence_that_is_over_is_told(call: Connection, line: Proxy, cuts: int, times: int) -> None:
    told: list[str] = []
    line.plan(*[Fault(cut_after=0)] * cuts)
    said(call, patience(interrupted=told.append))
    assert len(told) == times
    assert all(one.startswith("it did not answer for ") for one in told)


def test_a_stalled_call_is_made_again_when_its_time_is_up(
    call: Connection, line: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    line.plan(Fault(way="down", stall_after=50))
    assert said(call, patience()) == HELLO
    assert line.connections == 2


def test_an_answer_that_trickles_is_not_waited_for_to_its_end(call: Connection) -> None:
    """A device that sends a byte now and then is never silent; it is lost all the same."""

    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                time.sleep(0.01)
                yield b" "

    call._client = httpx.Client(
        base_url="https://bench", transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Trickle()))
    )
    begun = time.monotonic()
    with pytest.raises(JobFailed, match=r"bench did not answer for .* \(its answer comes too slowly\)") as lost:
        call.call(patience(0.5), "GET", "/v1/hello", answer_s=0.2)
    assert lost.value.fault == "DEVICE_LOST"
    assert time.monotonic() - begun < 5


def test_a_device_that_never_answers_is_lost_after_a_bounded_time(call: Connection, line: Proxy) -> None:  # case 9
    told: list[str] = []
    line.plan(*[Fault(cut_after=0)] * 100)
    begun = time.monotonic()
    with pytest.raises(JobFailed, match="bench did not answer for") as lost:
        call.call(patience(0.5, waiting=told.append), "GET", "/v1/hello")
    assert lost.value.fault == "DEVICE_LOST"
    assert 0.5 <= time.monotonic() - begun < 3
    assert len(told) == 1
    assert "does not answer" in told[0]


def test_opening_a_device_that_is_not_there_is_bounded_too(agent: Agent, line: Proxy) -> None:
    line.plan(*[Fault(cut_after=0)] * 100)
    with pytest.raises(JobFailed, match="DEVICE_LOST"):
        open_device("bench", cancel=threading.Event(), patience_s=0.3)


def test_backoff_grows_is_jittered_and_is_never_more_than_the_patience_left() -> None:
    pauses: list[float] = []

    class Still(Patience):
        def pause(self, seconds: float) -> None:
            pauses.append(seconds)

    for _ in range(200):
        still = Still("bench", cancel=threading.Event())
        for _ in range(10):
            still.failed(Unreachable("x"))
    tries = [pauses[number::10] for number in range(10)]
    for number, drawn in enumerate(tries):
        most = min(10.0, 0.1 * 2**number)
        assert 0.9 * most < max(drawn) <= most
        assert abs(sum(drawn) / len(drawn) - most / 2) < 0.15 * most  # five standard errors of a uniform draw's mean
    short = Still("bench", cancel=threading.Event(), limit_s=0.05)
    for _ in range(30):
        pauses.clear()
        short.failed(Unreachable("x"))
        assert pauses[0] <= 0.05


def test_a_cancel_ends_the_wait_at_once(call: Connection, line: Proxy) -> None:
    line.plan(*[Fault(cut_after=0)] * 1000)
    how = patience(600)
    threading.Timer(0.3, how.cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        call.call(how, "GET", "/v1/hello")
    assert time.monotonic() - begun < 2


def test_another_certificate_is_not_tried_again(line: Proxy) -> None:
    with Connection("bench", f"127.0.0.1:{line.port}", pinned(make("other")[1], host_identity())) as wrong:
        with pytest.raises(JobFailed, match="shows another certificate than the one it was paired with") as told:
            wrong.call(patience(600), "GET", "/v1/hello")
        assert told.value.fault == "DEVICE_LOST"
    assert line.connections == 1


def test_the_environments_proxies_are_not_asked(call: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    assert said(call, patience()) == HELLO


def test_a_refusal_comes_as_what_the_agent_raised(agent: Agent, call: Connection) -> None:
    with pytest.raises(Refused) as told:
        call.call(patience(), "PUT", "/v1/jobs/x", headers=HEADERS)
    assert (told.value.status, told.value.problem.code) == (409, "STALE_EPOCH")
    assert len(agent.script.calls) == 1


@pytest.mark.parametrize(("failures", "works"), [(3, True), (30, False)])
def test_an_agent_that_fails_is_asked_again_a_few_times(
    agent: Agent, call: Connection, failures: int, works: bool
) -> None:
    def fail(_: Asked) -> None:
        if len(agent.script.calls) <= failures:
            raise refused(500, "INTERNAL", "the agent failed; its log says why")

    agent.script.before = fail
    if works:
        assert said(call, patience()) == HELLO
        return
    with pytest.raises(JobFailed, match="its log says why") as told:
        said(call, patience())
    assert told.value.fault == "TRANSPORT"
    assert len(agent.script.calls) == 5


def test_an_answer_that_is_none_is_a_typed_fault(agent: Agent, call: Connection) -> None:
    agent.script.hello = "nothing"  # type: ignore[assignment]
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.hardware_profiles.devices.scripted.dump", lambda _: b'{"protocols":[1]}')
        stack.enter_context(pytest.raises(JobFailed, match="bench sent no proper answer"))
        said(call, patience())
