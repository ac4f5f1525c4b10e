"""A device in the process: measures and answers by digest of what a bundle deploys, and counts what it is asked."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any

from hardware_profiles.agent.supervisor import Cancelled, Enough
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Answer, Answered, Measurement, Mode, Process, Request, Timing
from hardware_profiles.profile import Profile, local
from hardware_profiles.wire import PROTOCOLS, Facts, Hello, Preflight

WORDS = ("red", "green", "blue")
CHUNK = 8


def drawn(bundle: Path, text: str) -> int:
    """A number that the bundle's candidate and a text decide."""
    candidate = dict(open_bundle(bundle, verify=False).manifest.candidate)
    seed = json.dumps(candidate, sort_keys=True)
    return int(hashlib.sha256((seed + text).encode()).hexdigest()[:8], 16)


def word(bundle: Path, request: Request) -> str:
    """What every machine answers to a request: whatever set it is asked in, an item has one answer."""
    return WORDS[drawn(bundle, request.id.rpartition(":")[2]) % len(WORDS)]


def told(
    bundle: Path, requests: Sequence[Request], enough: Enough | None, say: Callable[[Path, Request], str]
) -> Answered:
    """All requests answered in chunks, or those up to which enough was heard."""
    answers: list[Answer] = []
    for begin in range(0, len(requests), CHUNK):
        chunk = [Answer(id=one.id, text=say(bundle, one), tokens=1) for one in requests[begin : begin + CHUNK]]
        answers += chunk
        if enough and enough(chunk):
            break
    return Answered(answers=tuple(answers), load_s=0.1, work_s=0.1, memory_peak_bytes=10**8, properties={})


def measurement(
    ms: float, requests: Sequence[Request], texts: Sequence[str], mode: Mode = "provisional"
) -> Measurement:
    """Eleven or more timed answers about ``ms``, by as many processes as the mode has."""
    asked = list(zip(requests, texts, strict=True))
    timings = tuple(
        Timing(
            id=one.id,
            text=text,
            preprocess_ms=None,
            vision_ms=None,
            prefill_ms=None,
            ttft_ms=ms / 2,
            e2e_ms=ms,
            token_ms=(ms / 2, ms),
        )
        for _, (one, text) in zip(range(max(11, len(asked))), itertools.cycle(asked), strict=False)
    )
    process = Process(
        load_s=0.1,
        first_ms=2 * ms,
        warmup_answers=1,
        timings=timings,
        memory_peak_bytes=10**8,
        memory_baseline_bytes=10**7,
        energy_j=None,
        idle_w=None,
        properties={},
    )
    count = 5 if mode == "finalist" else 1
    return Measurement(
        verdict="valid", reasons=(), mode=mode, processes=(process,) * count, energy_source="none: a double"
    )


class Double:
    """Implements :class:`hardware_profiles.device.Device`.

    Attributes:
        ms: latency of a bundle.
        say: its answer to a request.
        fails: is asked before each call with the kind of call and the bundle; what it raises is raised.
        calls: kind of call and bundle, in order, of those that did not fail.
    """

    def __init__(
        self,
        name: str,
        ms: Callable[[Path], float],
        *,
        here: bool = False,
        say: Callable[[Path, Request], str] = word,
        accelerators: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.here = here
        self.ms = ms
        self.say = say
        self.profile: Profile = local()
        self.looked = Preflight(device="NPU", operations=0, fallback={})
        self.fails: Callable[[str, Path], None] = lambda *_: None
        self.calls: list[tuple[str, Path]] = []
        self.closed = False
        self._busy = Lock()
        facts = Facts(
            machine="x86_64",
            model="a double",
            cpu="none",
            memory_bytes=8 << 30,
            threads=self.profile.threads,
            dtypes=self.profile.dtypes,
            accelerators=accelerators or {},
            sensors={"temperature": "none: a double"},
            isolation={"user": "none: a double"},
        )
        self.hello = Hello(protocols=PROTOCOLS, agent="0.1.0", boot_id=name, runtimes={"openvino": "1"}, facts=facts)

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
        with self._call(mode, bundle, cancel):
            return measurement(self.ms(bundle), requests, [self.say(bundle, one) for one in requests], mode)

    def answer(
        self, bundle: Path, requests: Sequence[Request], *, cancel: Event, enough: Enough | None = None
    ) -> Answered:
        with self._call("answer", bundle, cancel):
            return told(bundle, requests, enough, self.say)

    def preflight(self, bundle: Path, *, cancel: Event) -> Preflight:
        with self._call("preflight", bundle, cancel):
            return self.looked

    def close(self) -> None:
        self.closed = True

    @contextmanager
    def _call(self, kind: str, bundle: Path, cancel: Event) -> Iterator[None]:
        assert not self.closed, f"{kind} of a device that was given back"
        assert self._busy.acquire(blocking=False), f"two things at once on {self.name}"
        try:
            if cancel.is_set():
                raise Cancelled("stopped")
            self.fails(kind, bundle)
            yield
            self.calls.append((kind, bundle))
        finally:
            self._busy.release()

    def count(self, kind: str) -> int:
        """How many calls of a kind did not fail."""
        return sum(one == kind for one, _ in self.calls)


def opener(doubles: Mapping[str, Any]) -> Callable[..., Any]:
    """In place of ``search.fleet.open_device``: opens these, and again those that were closed."""

    def open_device(name: str, *_: object) -> Any:
        found = doubles[name]
        if isinstance(found, Exception):
            raise found
        found.fails("open", Path())
        found.closed = False
        return found

    return open_device
