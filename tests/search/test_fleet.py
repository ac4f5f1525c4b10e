"""How a search bears with its devices: for how long, who waits meanwhile, and what is put on record."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hardware_profiles.devices.connection import unknown_here
from hardware_profiles.messages import JobFailed, Silent
from search import fleet as module
from search.equipment import open_all
from search.fleet import ELSEWHERE_S, Fleet, Lost
from search.gate import Gate
from spaces.errors import BadInput
from tests.double import Double

AWAY = JobFailed("DEVICE_LOST", "nothing was heard of it")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What each device was opened with, in order; all can be opened."""
    found: list[tuple[Any, ...]] = []

    def open_device(name: str, *given: Any) -> Double:
        found.append((name, *given))
        return Double(name, lambda _: 1.0)

    monkeypatch.setattr(module, "open_device", open_device)
    return found


def fleet(*names: str) -> Fleet:
    made = Fleet(names, Gate(), threading.Event(), "owner")
    made.open()
    return made


def test_where_there_are_others_a_silent_device_is_borne_with_for_less(opened: list[tuple[Any, ...]]) -> None:
    fleet("pi")
    two = fleet("pi", "jetson")
    with pytest.raises(Lost), two.turn("pi"):
        raise AWAY
    assert two.find() == ("pi",)
    patience = [(name, *given[3:5]) for name, *given in opened]
    assert patience == [
        ("pi", None, ELSEWHERE_S),
        ("pi", ELSEWHERE_S, ELSEWHERE_S),
        ("jetson", ELSEWHERE_S, ELSEWHERE_S),
        ("pi", ELSEWHERE_S, 0.0),
    ]


def test_nobody_waits_while_a_lost_device_is_looked_for(
    opened: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = fleet("pi", "jetson")
    with pytest.raises(Lost), two.turn("pi"):
        raise AWAY
    looking, end = threading.Event(), threading.Event()

    def open_device(*_: Any) -> Double:
        looking.set()
        end.wait(20)
        raise AWAY

    monkeypatch.setattr(module, "open_device", open_device)
    looks = threading.Thread(target=two.find)
    looks.start()
    looking.wait(20)
    try:
        with pytest.raises(Lost, match="nothing was heard of it"), two.turn("pi"):
            pass
    finally:
        end.set()
        looks.join()


def test_what_a_device_recovered_from_is_on_record(opened: list[tuple[Any, ...]]) -> None:
    two = fleet("pi", "jetson")
    interrupted: Callable[[str], None] = opened[0][-1]
    interrupted("it did not answer for 3 s")
    found = two.events[-1]
    assert (found.device, found.event, found.reason) == ("pi", "interrupted", "it did not answer for 3 s")


@pytest.mark.parametrize(
    ("error", "start"),
    [(Silent("DEVICE_LOST", "pi did not answer for 15 s (refused)"), True), (unknown_here("pi"), False)],
)
@pytest.mark.parametrize("others", [(), ("jetson",)])
def test_a_device_that_cannot_be_opened_comes_with_the_cure_that_helps(
    error: JobFailed, start: bool, others: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_device(name: str, *_: Any) -> Double:
        if name == "pi":
            raise error
        return Double(name, lambda _: 1.0)

    monkeypatch.setattr(module, "open_device", open_device)
    with pytest.raises(BadInput) as told:
        open_all(Fleet(("pi", *others), Gate(), threading.Event()), {})
    assert f"the device pi is out of reach ({error.reason})" in str(told.value)
    assert ("start vlmfront-agent" in str(told.value)) == start
    assert ("vlmfront device remove pi, then pair it again" in str(told.value)) == (not start)
