"""What is known of a kind of device before anything is measured on it. A profile is a YAML file."""

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware_profiles.agent.facts import facts as facts_here
from hardware_profiles.wire import Facts
from spaces.errors import BadInput

SCHEMA = "vlmfront.profile/1"
_PROFILES = Path(str(files("hardware_profiles"))) / "profiles"
_SEEN = (0.7, 1.05)
"""The share of a board's memory that its system can show: firmware and graphics keep some of it."""
_OWN = "the device's own facts"
_STRICT = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

Bytes = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


class Source(BaseModel):
    """Where one figure comes from. ``verified``: measured by us on such a device, or read from the device itself."""

    model_config = _STRICT

    url: str = ""
    says: Annotated[str, Field(min_length=1)]
    verified: bool = False


class Processor(BaseModel):
    """One of a device's processors; what is not known is null.

    Attributes:
        memory_bytes: memory of its own; null where it shares the machine's.
        bandwidth: bytes a second that it can read of its memory.
        peak: dtype -> operations a second (a multiplication and an addition are two), dense, without sparsity.
        operations: what it computes natively, in words.
        runtimes: those of vlmfront that run on it.
    """

    model_config = _STRICT

    memory_bytes: Bytes | None = None
    bandwidth: Rate | None = None
    peak: dict[str, Rate | None] = {}
    operations: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()


class Profile(BaseModel):
    """A kind of device.

    Attributes:
        match: which devices it is of: a regular expression that is found in ``machine``, ``model``, ``cpu`` or any of
            the ``accelerators`` of their facts; all of those named here must be.
        memory_bytes: what the machine has in all; 0 in a file means that the machine is asked.
        threads: CPU threads that a bundle may pin; 0 as above.
        dtypes: computed natively by the CPU (``f32``, ``bf16``, ``int8``); empty as above.
        processors: by name, the one that a runtime uses first before others that it could use.
        power_w: power mode -> its limit in watts; null where it has none or it is not known.
        sensors: what there should be to read: ``temperature``, ``clock``, ``throttle``, ``energy``.
        source: where figures come from that ``sources`` does not list.
        sources: figure (``threads``, ``gpu.bandwidth``) -> where it comes from.
    """

    model_config = _STRICT

    schema_id: Annotated[str, Field(alias="schema", pattern=f"^{SCHEMA}$")]
    name: Annotated[str, Field(min_length=1)]
    title: str = ""
    match: dict[Literal["machine", "model", "cpu", "accelerators"], str] = {}
    memory_bytes: Bytes
    threads: Annotated[int, Field(ge=0)]
    dtypes: tuple[str, ...]
    processors: dict[str, Processor] = {}
    power_w: dict[str, Rate | None] = {}
    sensors: tuple[str, ...] = ()
    source: Annotated[str, Field(min_length=1)]
    sources: dict[str, Source] = {}

    def processor(self, runtime: str, device: str = "") -> tuple[str, Processor]:
        """The processor that a runtime uses here, with its name; ``device`` is the bundle's ``cpu`` or ``cuda``.

        Where none lists the runtime, the CPU.
        """
        found = (
            (name, one)
            for name, one in self.processors.items()
            if runtime in one.runtimes and (name == "cpu" or device != "cpu")
        )
        return next(found, ("cpu", self.processors.get("cpu", Processor())))

    def room(self, runtime: str, device: str = "") -> int | None:
        """Bytes of memory that a runtime can hold weights in; null where that is not known."""
        return self.processor(runtime, device)[1].memory_bytes or self.memory_bytes or None

    def verified(self, *figures: str) -> bool:
        """Whether each of these figures was measured by us or read from the device."""
        return all(name in self.sources and self.sources[name].verified for name in figures)


def load_profile(path: Path) -> Profile:
    """The profile in a YAML file.

    Raises:
        BadInput: naming the file and the first field that is wrong.
    """
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); name a profile's YAML file.") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML ({' '.join(str(error).split())}); mend that line.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path}: {field}: {first['msg']}; mend that field.") from error


def all_profiles() -> tuple[Profile, ...]:
    """Every profile that comes along, by name."""
    return tuple(load_profile(path) for path in sorted(_PROFILES.glob("*.yaml")))


def built_in() -> tuple[Profile, ...]:
    """The profiles that come along and are of one device with a memory of its own, by name."""
    return tuple(one for one in all_profiles() if one.memory_bytes or any(map(_memory, one.processors.values())))


def named(name: str) -> Profile:
    """The profile that comes along under this name, ``local`` for this machine, else the one in a YAML file.

    Raises:
        BadInput: there is none.
    """
    if name == "local":
        return local()
    known = {profile.name: profile for profile in built_in()}
    if name in known:
        return known[name]
    if Path(name).suffix not in (".yaml", ".yml"):
        raise BadInput(f"there is no profile {name!r}; use one of {', '.join(known)}, or a profile's YAML file.")
    return load_profile(Path(name))


def profile_of(facts: Facts) -> Profile:
    """The profile that a device's own facts match, filled in with what the device says of itself.

    The one with the most conditions beside ``machine`` wins, and a board's memory must be there; a device that no
    profile describes gets one of its CPU without any figure that it does not give itself.
    """
    fitting = [one for one in all_profiles() if _matches(one, facts)]
    kind = max(fitting, key=lambda one: len(one.match.keys() - {"machine"}), default=None) or _unknown(facts)
    sensors = tuple(name for name, where in facts.sensors.items() if not where.startswith("none"))
    own = ["memory_bytes", "threads", "dtypes", "sensors"]
    processors = dict(kind.processors)
    cards = (text for text in facts.accelerators.values() if re.search(kind.match.get("accelerators", "$^"), text))
    if size := re.search(r"(\d+) MiB", next(cards, "")):
        processors["gpu"] = processors["gpu"].model_copy(update={"memory_bytes": int(size[1]) << 20})
        own.append("gpu.memory_bytes")
    return kind.model_copy(
        update={
            "memory_bytes": facts.memory_bytes,
            "threads": facts.threads,
            "dtypes": tuple(facts.dtypes),
            "sensors": sensors,
            "processors": processors,
            "source": f"{kind.source}; memory, threads, dtypes and sensors: {_OWN}",
            "sources": kind.sources | {name: Source(says=_OWN, verified=True) for name in own},
        }
    )


def local() -> Profile:
    """The profile of this machine, from its own facts."""
    return profile_of(facts_here())


def measured(profile: Profile, bandwidth: float, peak: Mapping[str, float]) -> Profile:
    """The profile with what was measured of its CPU: bytes a second; dtype -> operations a second of all threads."""
    cpu = profile.processors.get("cpu", Processor()).model_copy(update={"bandwidth": bandwidth, "peak": dict(peak)})
    says = "measured on this device: sum of a large array, product of large matrices (hardware_profiles.calibration)"
    own = {name: Source(says=says, verified=True) for name in ("cpu.bandwidth", "cpu.peak")}
    return profile.model_copy(
        update={"processors": profile.processors | {"cpu": cpu}, "sources": profile.sources | own}
    )


def _memory(processor: Processor) -> int:
    return processor.memory_bytes or 0


def _matches(profile: Profile, facts: Facts) -> bool:
    said: Mapping[str, Iterable[str]] = {
        "machine": (facts.machine,),
        "model": (facts.model,),
        "cpu": (facts.cpu,),
        "accelerators": facts.accelerators.values(),
    }
    if not profile.match or not all(
        any(re.search(pattern, text) for text in said[name]) for name, pattern in profile.match.items()
    ):
        return False
    low, high = (share * profile.memory_bytes for share in _SEEN)
    return not profile.memory_bytes or low <= facts.memory_bytes <= high


def _unknown(facts: Facts) -> Profile:
    cpu = Processor(runtimes=("openvino", "torch", "server"))
    kind: dict[str, Any] = {"name": f"{facts.machine}-cpu", "memory_bytes": 0, "threads": 0, "dtypes": ()}
    return Profile(schema_id=SCHEMA, source="no profile describes this kind", processors={"cpu": cpu}, **kind)
