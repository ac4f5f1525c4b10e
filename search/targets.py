"""Which devices a search is for, and what its objectives and limits come to on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from objectives.devices import AT, split
from objectives.registry import Objective, of_device
from search.fleet import LOCAL, known_names
from spaces.errors import BadInput
from spaces.reader import refuse_unknown

MOST_DEVICES = 4
MOST_OBJECTIVES = 4
"""After each device's own have been counted: more of them, and nearly every trial is on the front."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The devices of a search by name; ``predicted``: they are profiles, whose figures are worked out, not measured."""

    names: tuple[str, ...]
    predicted: bool = False


def read_targets(document: Mapping[str, Any], path: Path) -> Targets:
    """``device`` or ``devices`` of a search file.

    Raises:
        BadInput: naming the field; a device must be paired, before any work.
    """
    if "device" in document and "devices" in document:
        raise BadInput(f"{path}: device and devices: name the devices in one of the two fields.")
    given = document.get("device", LOCAL)
    if isinstance(given, dict):
        return _predicted(given, path)
    names = document.get("devices", [given])
    field = "devices" if "devices" in document else "device"
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadInput(f"{path}: {field}: names of paired devices are expected, such as {LOCAL}, not {names!r}.")
    if not 1 <= len(names) <= MOST_DEVICES or len(set(names)) < len(names):
        raise BadInput(f"{path}: devices: one to {MOST_DEVICES} different devices are expected.")
    paired = {LOCAL, *(known_names() if set(names) - {LOCAL} else ())}
    for name in names:
        if name not in paired:
            raise BadInput(
                f"{path}: {field}: {name!r} is not paired; `vlmfront device list` shows those that are, "
                f"and `vlmfront device add {name} HOST:PORT TOKEN` pairs it."
            )
    return Targets(names=tuple(names))


def _predicted(given: Mapping[str, Any], path: Path) -> Targets:
    refuse_unknown(given, {"profile", "predicted"}, f"{path}: device")
    profile = given.get("profile")
    if not isinstance(profile, str) or not profile or given.get("predicted") is not True:
        raise BadInput(f"{path}: device: {{profile: NAME, predicted: true}} is expected, or the name of a device.")
    return Targets(names=(profile,), predicted=True)


def each_objective(names: Sequence[str], known: Mapping[str, Objective], targets: Targets, path: Path) -> list[str]:
    """The objectives of a search: a figure of a device once for each of several devices.

    Raises:
        BadInput: there are too many, or one names what there is not.
    """
    found = [one for name in names for one in _on_each(name, known, targets, f"{path}: objectives")]
    if len(set(found)) < len(found):
        raise BadInput(f"{path}: objectives: different figures are expected; each device's own stand for it alone.")
    if len(found) > MOST_OBJECTIVES:
        raise BadInput(
            f"{path}: objectives: on these devices they come to {len(found)} ({', '.join(found)}), at most "
            f"{MOST_OBJECTIVES} can be searched for; name fewer devices or figures, or one device's as in {found[-1]}."
        )
    return found


def each_limit(limits: Mapping[str, T], known: Mapping[str, Objective], targets: Targets, path: Path) -> dict[str, T]:
    """The limits of a search, by figure; that of one device (``load_s@pi``) goes before that of all.

    Raises:
        BadInput: one names what there is not.
    """
    found: dict[str, T] = {}
    for name in sorted(limits, key=lambda name: AT in name):
        found |= dict.fromkeys(_on_each(name, known, targets, f"{path}: limits"), limits[name])
    return found


def _on_each(name: str, known: Mapping[str, Objective], targets: Targets, where: str) -> list[str]:
    base, device = split(name)
    refuse_unknown({base: None}, known, where)
    if device:
        refuse_unknown({device: None}, targets.names, f"{where}.{name}: devices")
        if not of_device(known[base]):
            raise BadInput(f"{where}: {name}: {base} is the same on every device; leave {AT}{device} out.")
    if len(targets.names) == 1 or not of_device(known[base]):
        return [base]
    return [f"{base}{AT}{one}" for one in ([device] if device else targets.names)]
