"""Case 11: two hosts want the device at once. One has it, the other knows its place and is served afterwards."""

from contextlib import ExitStack
from pathlib import Path

from tests.faults.bench import Bench, until
from tests.faults.hosts import Host


def test_case_11_of_two_hosts_one_is_served_and_then_the_other(
    bench: Bench, host: Host, other: Host, bundle: Path, image: Path
) -> None:
    with ExitStack() as stack:
        racers = {
            name: stack.enter_context(one.process(bundle, image, f"hold for {name}"))
            for name, one in (("host", host), ("other", other))
        }
        for racer in racers.values():
            racer.go_on()
        winner = bench.executed().question.removeprefix("hold for ")
        first, second = racers.pop(winner), next(iter(racers.values()))
        assert first.hear("opened")
        assert second.hear("waiting") == "bench is taken; place 1 in its queue"
        bench.go()
        assert first.hear("answered")
        assert len(bench.executions()) == 1  # it is the first's until that gives it back
        first.go_on()
        assert first.hear("closed")
        assert second.hear("opened")
        assert second.hear("answered").split()[0] == str(bench.executed(2).pid)
        second.go_on()
        assert second.hear("closed")
    until(lambda: len({one.question for one in bench.executions()}) == 2)
    assert bench.audit("stale epoch") == []
