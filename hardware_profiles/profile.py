"""What is known of a kind of device before anything is measured on it. A profile is a YAML file."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware_profiles.agent import probes
from spaces.errors import BadInput

SCHEMA = "vlmfront.profile/1"
_FLAGS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"},
}
_PROFILES = Path(str(files("hardware_profiles"))) / "profiles"


class Profile(BaseModel):
    """A kind of device.

    Attributes:
        memory_bytes: what the device has in all; 0 in a file means that ``local`` asks the machine.
        threads: CPU threads that a bundle may pin; 0 as above.
        dtypes: computed natively (``f32``, ``bf16``, ``int8``); empty as above.
        source: where the figures come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_id: Annotated[str, Field(alias="schema", pattern=f"^{SCHEMA}$")]
    name: Annotated[str, Field(min_length=1)]
    memory_bytes: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=0)]
    dtypes: tuple[str, ...]
    source: Annotated[str, Field(min_length=1)]


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


def built_in() -> tuple[Profile, ...]:
    """The profiles that come along and have figures, by name."""
    found = [load_profile(path) for path in sorted(_PROFILES.glob("*.yaml"))]
    return tuple(profile for profile in found if profile.memory_bytes)


def local() -> Profile:
    """The profile ``x86-cpu``, or of whatever CPU this is, filled in from this machine."""
    kind = load_profile(_PROFILES / "x86-cpu.yaml")
    flags = _cpu_flags()
    return kind.model_copy(
        update={
            "memory_bytes": kind.memory_bytes or probes.memory_total_bytes(),
            "threads": kind.threads or len(os.sched_getaffinity(0)),
            "dtypes": kind.dtypes or ("f32", *(dtype for dtype, any_of in _FLAGS.items() if flags & any_of)),
            "source": f"{kind.source}; this machine: /proc/meminfo, scheduler affinity, CPU flags",
        }
    )


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
