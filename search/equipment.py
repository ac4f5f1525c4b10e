"""What a run records of its devices, and what their profiles come to together."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hardware_profiles.device import Device
from search.fleet import AllLost, Fleet
from search.prediction import Predicted
from spaces.errors import BadInput

Record = Mapping[str, Any]
PREDICTED = "`device: {profile: NAME, predicted: true}` in the search file goes by predictions instead"


def open_all(fleet: Fleet, known: Mapping[str, Record]) -> dict[str, Record]:
    """Open a search's devices, and what the run records of each.

    A new run needs every one of them; one that goes on, whose record is ``known``, needs one, and the others may come
    back while it goes.

    Raises:
        BadInput: one sentence that names the cure.
    """
    try:
        fleet.open()
    except AllLost as error:
        start = f": start vlmfront-agent on {' and '.join(fleet.silent)}" if fleet.silent else ""
        raise BadInput(f"{error}{start}; {PREDICTED}.") from None
    records = {}
    for name in fleet.names:
        device = fleet.devices.get(name)
        if device is None and name not in known:
            raise BadInput(
                f"the device {name} is out of reach ({fleet.lost[name]}): a search begins with all of its devices, so "
                f"{'start vlmfront-agent there' if name in fleet.silent else 'mend that'} or leave it out; {PREDICTED}."
            )
        fresh = record(device) if device else known[name]
        kept = known.get(name, fresh)
        records[name] = kept if kept.get("profile") == fresh["profile"] else fresh
    return records


def record(device: Device) -> Record:
    """A device as its own agent describes it."""
    hello = device.hello
    return {
        "profile": device.profile.name,
        "threads": device.profile.threads,
        "dtypes": list(device.profile.dtypes),
        "here": device.here,
        "agent": hello.agent,
        "runtimes": dict(hello.runtimes),
        "servers": list(hello.servers),
        "facts": asdict(hello.facts),
    }


def stand_in(predicted: Predicted) -> dict[str, Record]:
    """What the run records of a device that is only known by its profile."""
    profile = predicted.profile
    return {
        profile.name: {
            "profile": profile.name,
            "threads": profile.threads,
            "dtypes": list(profile.dtypes),
            "predicted": True,
        }
    }


@dataclass(frozen=True)
class Abilities:
    """What at least one of several devices can do, as far as execution settings go."""

    threads: int
    dtypes: tuple[str, ...]


def together(records: Iterable[Record]) -> Abilities:
    """The most threads of any device, and what any of them computes natively."""
    each = list(records)
    dtypes = dict.fromkeys(dtype for one in each for dtype in one["dtypes"])
    return Abilities(threads=max(one["threads"] for one in each), dtypes=tuple(dtypes))
