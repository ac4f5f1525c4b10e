"""The devices of one search: opened, taken in turns, lost, and found again."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Literal

from hardware_profiles.agent.supervisor import Enough
from hardware_profiles.device import Device
from hardware_profiles.messages import Answered, JobFailed, Request, Silent
from objectives.records import DeviceEvent
from search.executors import Interrupted
from search.gate import Gate
from spaces.errors import BadInput

LOCAL = "local"
AWAY = ("DEVICE_LOST", "TRANSPORT", "STALE_EPOCH")
"""Faults of the way to a device, raised after its own bounded patience: the device is away, and its work waits."""
ELSEWHERE_S = 15.0
"""Patience with a device that is silent, or that another host has, where there are others: a trial waits for all of
them, so one that is away keeps them idle, and two searches that each have what the other wants would wait for ever. To
lose it costs little, since what it was asked is found again or measured later. Also with one that is silent when a
search begins, since somebody waits for that."""


class Lost(Exception):
    """A device is away: what was asked of it waits until it is back."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"{device}: {reason}")
        self.device = device
        self.reason = reason


class AllLost(Exception):
    """No device of the search is within reach, so it cannot go on."""


def known_names() -> tuple[str, ...]:
    """The names of the paired devices."""
    from hardware_profiles import devices

    return devices.known_names()


def open_device(
    name: str,
    cancel: Event,
    waiting: Callable[[str], None],
    owner: str = "",
    patience_s: float | None = None,
    opening_s: float | None = None,
    interrupted: Callable[[str], None] = lambda _: None,
) -> Device:
    """The device of this name, held until it is closed; ``local`` starts an agent on this machine.

    ``owner``: who was killed and opens it again with the same one finds what it asked of the device. ``patience_s``
    is how long it may be silent or another host's, ``opening_s`` before it is open; null for what is usual, and for a
    queue as long as it takes. ``interrupted`` hears of what it recovered from.

    Raises:
        BadInput: no such device is paired.
        JobFailed: ``DEVICE_LOST`` where it does not answer.
    """
    from hardware_profiles import devices

    return devices.open_device(
        name,
        cancel=cancel,
        waiting=waiting,
        owner=owner,
        patience_s=patience_s,
        opening_s=opening_s,
        queues=patience_s is None,
        interrupted=interrupted,
    )


class Fleet:
    """The devices of a search. Each is used by one thread at a time, and what is measured here is measured alone.

    A device that is lost is closed and marked; :meth:`find` looks for it again. Safe to call from any thread.

    Attributes:
        names: in the order of the search file; the first has the say where one must be chosen.
        gate: keeps this machine quiet while a device that is this machine measures.
        stop: ends whatever is under way.
        events: what happened to the devices so far; each of ``heard`` is told as it happens.
        says: is told why a device is waited for.
    """

    def __init__(self, names: Sequence[str], gate: Gate, stop: Event, owner: str = "") -> None:
        self.names = tuple(names)
        self._owner = owner
        self.gate = gate
        self.stop = stop
        self.events: list[DeviceEvent] = []
        self.heard: list[Callable[[DeviceEvent], None]] = []
        self.says: Callable[[str, str], None] = lambda *_: None
        self._devices: dict[str, Device] = {}
        self._lost: dict[str, JobFailed] = {}
        self._turns = {name: Lock() for name in self.names}

    def open(self) -> None:
        """Open every device; those that do not answer are lost.

        Raises:
            BadInput: one is not paired.
            AllLost: none answers.
        """
        for name in self.names:
            self._open(name)
        if not self._devices:
            raise self.all_lost()

    @property
    def devices(self) -> Mapping[str, Device]:
        """Those within reach."""
        return dict(self._devices)

    @property
    def lost(self) -> Mapping[str, str]:
        """Those that are away, and why."""
        return {name: error.reason for name, error in self._lost.items()}

    @property
    def silent(self) -> tuple[str, ...]:
        """Those of them that do not answer: starting their agent may help, as it does not where one refused."""
        return tuple(name for name, error in self._lost.items() if isinstance(error, Silent))

    def all_lost(self) -> AllLost:
        """The end of a search that has no device left, in one sentence."""
        return AllLost("; ".join(f"the device {name} is out of reach ({why})" for name, why in self.lost.items()))

    def find(self) -> tuple[str, ...]:
        """Look for the lost devices again; those that are back."""
        return tuple(name for name in self.lost if self._open(name))

    @contextmanager
    def turn(self, name: str) -> Iterator[Device]:
        """A device, for one thread at a time; one that is lost meanwhile is put down as such.

        Raises:
            Lost: the device is away, or went away meanwhile.
            Interrupted: the search was stopped.
        """
        if (away := self._lost.get(name)) is not None:  # nobody waits while it is looked for
            raise Lost(name, away.reason)
        with self._turns[name]:
            if self.stop.is_set():
                raise Interrupted
            device = self._devices.get(name)
            if device is None:
                raise Lost(name, self.lost.get(name, "it was closed"))
            try:
                yield device
            except JobFailed as error:
                if error.fault not in AWAY:
                    raise
                self._put_down(name, error)
                raise Lost(name, error.reason) from None

    def alone(self, device: Device) -> AbstractContextManager[None]:
        """Hold while the device measures: where it is this machine, nobody works meanwhile."""
        return self.gate.quiet() if device.here else nullcontext()

    def answer(self, name: str, bundle: Path, requests: Sequence[Request], enough: Enough | None = None) -> Answered:
        """Have a device answer, which on this machine is work like any other.

        Raises:
            Lost, Interrupted: as :meth:`turn`.
            JobFailed, Cancelled: as :meth:`hardware_profiles.device.Device.answer`.
        """
        with self.turn(name) as device, self.gate.work() if device.here else nullcontext():
            return device.answer(bundle, requests, cancel=self.stop, enough=enough)

    def close(self) -> None:
        """Give every device back; the agent that was started for this machine ends."""
        for name in self.names:
            if device := self._devices.pop(name, None):
                with suppress(JobFailed):
                    device.close()

    def _put_down(self, name: str, error: JobFailed) -> None:
        device = self._devices.pop(name)
        self._lost[name] = error
        with suppress(JobFailed):
            device.close()
        self._tell(name, "lost", error.reason)

    def _open(self, name: str) -> bool:
        """Open a device that is not open; whether it is now."""
        with self._turns[name]:
            if name in self._devices:
                return False
            try:
                patience_s = ELSEWHERE_S if len(self.names) > 1 else None
                opening_s = 0.0 if name in self._lost else ELSEWHERE_S
                waiting, interrupted = partial(self.says, name), partial(self._tell, name, "interrupted")
                device = open_device(name, self.stop, waiting, self._owner, patience_s, opening_s, interrupted)
            except JobFailed as error:
                if name not in self._lost:
                    self._tell(name, "lost", error.reason)
                self._lost[name] = error
                return False
            except BadInput:
                if name not in self._lost:
                    raise
                return False  # it was unpaired meanwhile
            self._devices[name] = device
            self._tell(name, "back" if self._lost.pop(name, None) is not None else "opened", "")
            return True

    def _tell(self, name: str, event: Literal["opened", "lost", "back", "interrupted"], reason: str) -> None:
        found = DeviceEvent(device=name, time=time.time(), event=event, reason=reason)
        self.events.append(found)
        for hear in self.heard:
            hear(found)
