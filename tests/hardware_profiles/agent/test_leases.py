import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.leases import LEAST_TTL_S, MOST_LEASES, MOST_TTL_S, Leases

ASKERS = st.sampled_from([(peer, uuid) for peer in ("a", "b") for uuid in ("1", "2", "3")])
TTLS = st.sampled_from([5.0, 7.5, 30.0, 120.0])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line(RuleBasedStateMachine):
    """The model: who asked, in order, and until when each of them counts; the first that counts holds the device."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.leases = Leases(3, self.clock)
        self.until: dict[tuple[str, str], float] = {}  # in the order in which they came
        self.epochs: list[tuple[int, tuple[str, str]]] = []

    def line(self) -> list[tuple[str, str]]:
        self.until = {asker: until for asker, until in self.until.items() if until > self.clock.now}
        return list(self.until)

    @rule(asker=ASKERS, ttl_s=TTLS)
    def ask(self, asker: tuple[str, str], ttl_s: float) -> None:
        self.line()
        self.until[asker] = self.clock.now + ttl_s
        lease = self.leases.ask(*asker, ttl_s)
        assert lease.position == self.line().index(asker)
        assert (lease.epoch is None) == (lease.position > 0)
        assert lease.expires_s == ttl_s

    @rule(asker=ASKERS)
    def give_back(self, asker: tuple[str, str]) -> None:
        self.until.pop(asker, None)
        self.leases.give_back(*asker)

    @rule(seconds=st.sampled_from([0.001, 4.999, 5.0, 40.0, 121.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def one_holder_whose_epoch_is_new(self) -> None:
        line = self.line()
        epoch, left_s = self.leases.current()
        assert (epoch is None) == (not line)
        if epoch is None:
            assert left_s is None
            return
        assert left_s == pytest.approx(min(self.until.values()) - self.clock.now)
        if not self.epochs or self.epochs[-1][0] != epoch:
            assert not self.epochs or epoch > self.epochs[-1][0]
            self.epochs.append((epoch, line[0]))
        assert self.epochs[-1] == (epoch, line[0])
        assert [peer for peer in ("a", "b") if self.leases.holds(peer, epoch)] == [line[0][0]]
        assert not any(self.leases.holds(peer, old) for peer in ("a", "b") for old, _ in self.epochs[:-1])


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_holder_that_renews_keeps_its_epoch_for_ever() -> None:
    clock = Clock()
    leases = Leases(1, clock)
    first = leases.ask("a", "1", 5.0)
    assert (first.epoch, first.position) == (1, 0)
    assert leases.ask("b", "2", 120.0).position == 1
    for _ in range(1000):
        clock.now += 4.9
        assert leases.ask("a", "1", 5.0) == first
        leases.ask("b", "2", 120.0)
    clock.now += 5.0
    assert not leases.holds("a", 1)
    assert leases.holds("b", 2)
    assert leases.ask("a", "1", 5.0).position == 1


def test_a_uuid_belongs_to_the_peer_that_took_it() -> None:
    leases = Leases(1, Clock())
    epoch = leases.ask("a", "1", 5.0).epoch
    assert epoch is not None
    assert leases.ask("b", "1", 5.0).epoch is None
    leases.give_back("b", "1")
    assert leases.holds("a", epoch)
    assert not leases.holds("b", epoch)


def test_epochs_grow_over_restarts() -> None:
    before = Leases(1, Clock())
    for number in range(100):
        last = before.ask("a", str(number), 5.0).epoch
        before.give_back("a", str(number))
    first = Leases(2, Clock()).ask("a", "1", 5.0).epoch
    assert last is not None
    assert first is not None
    assert last < first < 2**53  # as JSON readers hold it


@pytest.mark.parametrize("ttl_s", [LEAST_TTL_S - 0.1, MOST_TTL_S + 0.1, 0.0, -5.0, float("nan"), float("inf")])
def test_a_ttl_out_of_range_is_refused(ttl_s: float) -> None:
    with pytest.raises(Refused, match=r"MALFORMED: ttl_s is .*; take 5 to 120 seconds"):
        Leases(1, Clock()).ask("a", "1", ttl_s)


def test_the_line_is_bounded() -> None:
    leases = Leases(1, Clock())
    for number in range(MOST_LEASES):
        leases.ask("a", str(number), 5.0)
    with pytest.raises(Refused, match="RATE_LIMITED"):
        leases.ask("a", "more", 5.0)
    assert leases.ask("a", "3", 5.0).position == 3
