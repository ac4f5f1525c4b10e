"""What is to be known of a device before a search trusts it: what it is, the way to it, whether it repeats itself."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from uuid import uuid4

from hardware_profiles.agent.exchange import Refused
from hardware_profiles.bundle import open_bundle
from hardware_profiles.devices import open_device
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import Measurement, Request
from hardware_profiles.profile import Profile
from hardware_profiles.wire import Hello
from spaces.canonical import file_digest
from spaces.errors import BadInput

PATIENCE_S = 15.0  # somebody waits for the command: one lost connection may be tried again, no restart waited for
REPEATS = 3  # the fewest that have a spread
_ROUND_TRIPS = 9
_UPLOAD_BYTES = 16 << 20
_SIDE = 224  # pixels of the image that is asked about
_QUESTION = "what is this ?"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """One bundle measured several times, each in fresh processes.

    Attributes:
        p50_ms: median time of a whole answer in each measurement.
        spread: their range over their median.
    """

    p50_ms: tuple[float, ...]
    measurements: tuple[Measurement, ...]

    @property
    def spread(self) -> float:
        return (max(self.p50_ms) - min(self.p50_ms)) / statistics.median(self.p50_ms)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found.

    Attributes:
        round_trip_ms: of a call without a body, the median of several.
        clock_skew_s: the device's clock against ours, to half a second: HTTP's ``Date`` has whole ones, rounded down;
            null where it sends none.
        upload_mb_s: 10^6 bytes a second of an upload, with what the device does to keep it: hashing and fsync.
        repeated: null where no bundle was given: nothing else could be measured truthfully.
    """

    hello: Hello
    profile: Profile
    here: bool
    round_trip_ms: float
    clock_skew_s: float | None
    upload_mb_s: float
    repeated: Repeated | None


def check(
    name: str,
    bundle: Path | None,
    *,
    sustained_s: float = 0.0,
    cancel: Event,
    waiting: Callable[[str], None],
    patience_s: float = PATIENCE_S,
) -> Checked:
    """Open a device, look at it and, with a bundle, measure on it; under load for ``sustained_s`` each time.

    Raises:
        BadInput: the name is unknown, the folder is no bundle, or there is none to put load on the device with.
        JobFailed: the device does not answer, or cannot run the bundle.
        Cancelled: the event was set.
    """
    if bundle:
        open_bundle(bundle)
    elif sustained_s:
        raise BadInput("--sustained needs --bundle FOLDER, which puts the load on the device.")
    device = open_device(name, cancel=cancel, waiting=waiting, patience_s=patience_s)
    try:
        round_trip_ms, skew_s = _round_trip(device)
        return Checked(
            hello=device.hello,
            profile=device.profile,
            here=device.here,
            round_trip_ms=round_trip_ms,
            clock_skew_s=skew_s,
            upload_mb_s=_upload_rate(device, cancel),
            repeated=_repeat(device, bundle, sustained_s, cancel, waiting) if bundle else None,
        )
    finally:
        device.close()


def _round_trip(device: RemoteDevice) -> tuple[float, float | None]:
    """By asking for a job that there is not: the one call that costs the agent nothing but the answer."""
    took, skew_s = [], None
    for _ in range(_ROUND_TRIPS):
        begun = time.perf_counter()
        try:
            headers = device.connection.once("GET", f"/v1/jobs/{uuid4()}").headers
        except Refused as error:
            headers = error.headers
        took.append((time.perf_counter() - begun) * 1e3)
        if date := headers.get("date"):
            skew_s = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() + 0.5
    return statistics.median(took), skew_s


def _upload_rate(device: RemoteDevice, cancel: Event) -> float:
    """Bytes that no device has yet, so that all of them travel."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise"
        path.write_bytes(os.urandom(_UPLOAD_BYTES))
        digest = f"sha256:{file_digest(path)}"
        begun = time.perf_counter()
        device.upload({digest: path}, cancel)
        return _UPLOAD_BYTES / 1e6 / (time.perf_counter() - begun)


def _repeat(
    device: RemoteDevice, bundle: Path, sustained_s: float, cancel: Event, waiting: Callable[[str], None]
) -> Repeated:
    from numpy.random import default_rng
    from PIL import Image

    prompt = open_bundle(bundle, verify=False).manifest.prompt
    fields = {prompt.hint_field: next(iter(prompt.hints))} if prompt.hints else {}
    with TemporaryDirectory() as folder:
        image = Path(folder) / "noise.png"
        Image.fromarray(default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype="uint8")).save(image)
        asked = (Request(id="0", image=str(image), question=_QUESTION, fields=fields),)
        measured = []
        for number in range(REPEATS):
            waiting(f"measurement {number + 1} of {REPEATS}")
            found = device.measure(bundle, asked, sustained_s=sustained_s, cancel=cancel, waiting=waiting)
            measured.append(found)
    p50 = tuple(statistics.median(timing.e2e_ms for timing in one.timings) for one in measured)
    return Repeated(p50_ms=p50, measurements=tuple(measured))
