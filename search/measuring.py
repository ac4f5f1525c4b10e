"""Measures what a trial deploys on every device of the search, the same thing once on each."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from hardware_profiles.bundle import Manifest, open_bundle
from hardware_profiles.device import Device
from hardware_profiles.messages import JobFailed, Measurement, Mode
from hardware_profiles.wire import Preflight
from objectives.latency import LEAST_N, between_processes
from objectives.run import RunFolder
from objectives.trial import DeviceResult
from search.feasibility import fallbacks
from search.fleet import Fleet, Lost
from search.progress import Progress
from search.scoring import requests
from spaces.canonical import digest
from spaces.errors import StageFailed
from spaces.sample import Sample

TIMED_ITEMS = 24
"""Different questions that a measurement cycles through, taken evenly over the split so that they are like it."""
FINALIST_ANSWERS = 26
"""Of each of a finalist's five processes: 130 in all, from which on there is a p95 (`objectives.latency.least_n`)."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one device gave of one bundle. ``waited_s``: for how long its turn was waited for."""

    result: DeviceResult
    measurement: Measurement | None = None
    waited_s: float = 0.0


class Measuring:
    """Measures the bundles of one run. Safe to call from any thread."""

    def __init__(self, *, run: RunFolder, fleet: Fleet, items: Sequence[Sample]) -> None:
        self.fleet = fleet
        self.requests = requests(timed_items(items))
        self._run = run
        self._looked: dict[tuple[str, str], Preflight | None] = {}
        self._first: dict[tuple[str, str], int] = {}
        self._unable: dict[tuple[str, str], DeviceResult] = {}
        for trial in run.read_trials():
            for name, result in trial.devices.items():
                self._note(trial.number, trial.deployed, name, result)

    def everywhere(self, number: int, bundle: Path, progress: Progress) -> None:
        """Measure on all devices at once but those that ``progress`` has a result for, and take in what they gave.

        Raises:
            StageFailed: it can run on none of them.
            AllLost: no device is within reach any more.
            Interrupted, Cancelled: the search was stopped.
        """
        manifest = open_bundle(bundle, verify=False).manifest
        progress.deployed = deployed(manifest)
        names = [name for name in self.fleet.names if name not in progress.devices]
        begun = time.monotonic()
        found = at_once(names, lambda name: self.on(name, number, bundle, manifest))
        waited = min((one.waited_s for one in found), default=0.0)
        progress.seconds["wait"] += waited
        progress.seconds["measure"] += time.monotonic() - begun - waited
        for name, one in zip(names, found, strict=True):
            self.take(name, one, progress)
        results = progress.devices
        if all(result.state == "infeasible" for result in results.values()):
            raise StageFailed(in_words({name: result.reason for name, result in results.items()}))
        if all(result.state == "missing" for result in results.values()) and not self.fleet.devices:
            raise self.fleet.all_lost()

    def on(self, name: str, number: int, bundle: Path, manifest: Manifest) -> Found:
        """What one device gives of a trial's bundle, and that it gives nothing where it cannot or is away."""
        same = deployed(manifest)
        if unable := self._unable.get((same, name)):
            return Found(result=unable)
        asked = time.monotonic()
        try:
            with self.fleet.turn(name) as device:
                preflight = self._preflight(device, bundle, manifest)
                if preflight and preflight.reasons:
                    why = "; ".join(preflight.reasons)
                    label = f"cannot run on {name}: {why}"
                    return Found(result=DeviceResult(state="infeasible", reason=why, labels=(label,)))
                known = self._run.read_measurement(same, name)
                if known is None or known.verdict == "invalid":
                    shared = None
                    known, waited_s = self.measured(device, bundle, "provisional", asked)
                    self._run.write_measurement(same, name, known)
                else:
                    shared, waited_s = self._first.get((same, name)), 0.0
            result = result_of(name, known, shared, preflight)
            found = Found(result=result, measurement=known, waited_s=waited_s)
        except Lost as lost:
            return Found(result=missing(name, lost.reason))
        except JobFailed as error:
            noisy = error.fault == "INVALID_NOISE"
            why = f"{error.fault}: {error.reason}"
            label = f"invalid on {name}: {why}" if noisy else f"cannot run on {name}: {why}"
            found = Found(result=DeviceResult(state="invalid" if noisy else "infeasible", reason=why, labels=(label,)))
        self._note(number, same, name, found.result)
        return found

    def take(self, name: str, found: Found, progress: Progress) -> None:
        """Take in what a device gave of a trial."""
        progress.devices[name] = found.result
        self.learn(name, found.measurement, progress)

    def learn(self, name: str, measured: Measurement | None, progress: Progress) -> None:
        """Take in a measurement by a device, and how far its p50 strays there between processes."""
        spread = between_processes([one.measurement for one in self._run.read_references(name)])
        progress.learn_on(name, measurement=measured, spread=spread)

    def measured(
        self, device: Device, bundle: Path, mode: Mode, asked: float, ordinal: int = 0
    ) -> tuple[Measurement, float]:
        """A measurement by a device whose turn it is, and for how many seconds since ``asked`` it had to wait."""
        with self.fleet.alone(device):
            waited_s = time.monotonic() - asked
            found = device.measure(
                bundle,
                self.requests,
                mode=mode,
                min_answers=FINALIST_ANSWERS if mode == "finalist" else LEAST_N,
                ordinal=ordinal,
                cancel=self.fleet.stop,
                waiting=lambda why: self.fleet.says(device.name, why),
            )
        return found, waited_s

    def _preflight(self, device: Device, bundle: Path, manifest: Manifest) -> Preflight | None:
        """What would leave the device's accelerator, looked up once for each deployed graph; null without one."""
        if not device.hello.facts.accelerators:
            return None
        key = device.name, graphs(manifest)
        if key not in self._looked:
            self._looked[key] = device.preflight(bundle, cancel=self.fleet.stop)
        return self._looked[key]

    def _note(self, number: int, same: str, name: str, result: DeviceResult) -> None:
        """Remember a result for trials that deploy the same."""
        if same and result.state == "infeasible":
            self._unable[same, name] = result
        elif same and result.state == "measured":
            self._first.setdefault((same, name), number)


def result_of(name: str, measurement: Measurement, shared: int | None, preflight: Preflight | None) -> DeviceResult:
    """What a measurement makes of a trial on a device, with what its reader must know."""
    labels: tuple[str, ...] = ("provisional",) if measurement.mode == "provisional" else ()
    why = "; ".join(measurement.reasons)
    if measurement.verdict == "invalid":
        return DeviceResult(
            state="invalid", reason=why, mode=measurement.mode, labels=(*labels, f"invalid on {name}: {why}")
        )
    labels += measurement.reasons
    if shared is not None:
        labels += (f"deploys the same as trial {shared}, measured once",)
    if preflight:
        labels += fallbacks(preflight)
    return DeviceResult(state="measured", mode=measurement.mode, shared=shared, labels=labels)


def missing(name: str, reason: str, what: str = "not measured") -> DeviceResult:
    """A device that was away when it should have measured, or gone before all that was asked of it was done."""
    return DeviceResult(state="missing", reason=reason, labels=(f"{what} on {name}: {reason}",))


def deployed(manifest: Manifest) -> str:
    """The digest of what decides a bundle's speed and answers: its files, prompt, settings and cap of tokens."""
    execution, prompt = asdict(manifest.execution), asdict(manifest.prompt)
    return digest([graphs(manifest), manifest.max_new_tokens, execution, prompt])


def graphs(manifest: Manifest) -> str:
    """The digest of a bundle's files, of the runtime that loads them, and of the settings that it compiles with."""
    files = {name: entry.sha256 for name, entry in manifest.files.items()}
    return digest([manifest.runtime, files, asdict(manifest.execution)])


def timed_items(items: Sequence[Sample]) -> Sequence[Sample]:
    """The items that a measurement cycles through, taken evenly over the split."""
    count = min(TIMED_ITEMS, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def at_once(names: Iterable[T], work: Callable[[T], R]) -> list[R]:
    """``work`` for each, in a thread of its own where there are several; their results in order."""
    each = list(names)
    if len(each) < 2:
        return [work(one) for one in each]
    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(work, each))


def in_words(reasons: dict[str, str]) -> str:
    """Reasons by device; the bare one where there is a single device."""
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"on {name}: {reason}" for name, reason in reasons.items())
