"""A target device as a search sees it, wherever it is: the one way in which a search measures anything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Protocol

from hardware_profiles.agent.supervisor import Enough
from hardware_profiles.messages import Answered, Measurement, Mode, Request
from hardware_profiles.profile import Profile
from hardware_profiles.wire import Hello, Preflight


class Device(Protocol):
    """One paired device, held by a lease until ``close``. Methods may be called from any thread, one at a time.

    Each raises :class:`hardware_profiles.messages.JobFailed` with the fault (``DEVICE_LOST`` after a bounded wait) and
    :class:`hardware_profiles.agent.supervisor.Cancelled` once ``cancel`` is set.

    Attributes:
        name: as ``vlmfront device list`` has it; ``local`` is an agent on this machine that the search starts.
        here: whether it is this very machine (its boot id is ours), so that work on the host would disturb it.
        profile: what is known of its kind, filled in from its own facts.
        hello: what its agent said of itself when the device was opened.
    """

    name: str
    here: bool
    profile: Profile
    hello: Hello

    def measure(
        self,
        bundle: Path,
        requests: Sequence[Request],
        *,
        mode: Mode = "provisional",
        min_answers: int = 11,
        ordinal: int = 0,
        cancel: Event,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Measurement:
        """Upload what the device lacks of the bundle and the images, and measure; ``waiting`` hears why it waits.

        ``ordinal`` tells repeated measurements of one bundle apart: how many of them the caller has on record.
        """
        ...

    def answer(
        self, bundle: Path, requests: Sequence[Request], *, cancel: Event, enough: Enough | None = None
    ) -> Answered:
        """Answer every request on the device; ``enough`` may end it early, as in ``run_job``."""
        ...

    def preflight(self, bundle: Path, *, cancel: Event) -> Preflight:
        """Which operations would leave the device's accelerator, and whether the bundle can run there at all."""
        ...

    def close(self) -> None:
        """Give the lease back; stop the agent where the search started it."""
        ...
