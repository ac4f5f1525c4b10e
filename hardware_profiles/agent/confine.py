"""What a runner is kept from, and how: the plan for :mod:`hardware_profiles.agent.jail`, and what works on a machine.

Whatever the kernel or our own rights do not allow is left out, and ``describe`` says so: a measurement is worth having
on a machine where isolation is not to be had, but nobody may believe that it was there.
"""

import json
import math
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware_profiles.agent import groups, proc, servers
from hardware_profiles.messages import Job

JAIL = (sys.executable, "-I", "-S", str(Path(__file__).with_name("jail.py")))
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}  # no library goes online
USERS = ("vlmfront-runner", "nobody")  # the first of them that exists
RESERVE = 0.05  # of the machine's memory stays the agent's, and 256 MiB at least: the agent must outlive its runner
LEAST_RESERVE = 256 << 20
MOST_WRITTEN = 4 << 30  # bytes of one file that a runner may write: what it prints must not fill the disk
_KEPT = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_DIR", "SSL_CERT_FILE"}
_KEPT_PREFIXES = ("LC_", "OMP_", "KMP_", "MKL_", "TBB_", "GOMP_", "CUDA_", "NVIDIA_", "OPENVINO_", "OV_", "ZE_")
_SETTINGS: Mapping[str, Any] = {
    "groups": [],
    "namespaces": [],
    "read_only": [],
    "hidden": [],
    "limits": {},
    "user": None,
}
_NO_TOKENS = ("TOKEN", "SECRET", "PASSWORD", "KEY")


@dataclass(frozen=True, kw_only=True)
class Confine:
    """How a runner is confined beyond what always holds.

    Attributes:
        memory_bytes: limit of the runner's memory; null is what the machine has to spare.
        hidden: folders of which a runner sees what its job needs and nothing else: the agent's state.
        users: of a root agent, whom the runner becomes: the first that exists.
    """

    memory_bytes: int | None = None
    hidden: tuple[Path, ...] = ()
    users: tuple[str, ...] = USERS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One runner's confinement, ready to start: its command, its environment, its group if it has one."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    group: groups.Group | None
    isolation: Mapping[str, str] = field(default_factory=dict)


def plan(job: Job, command: Sequence[str], confine: Confine) -> Plan:
    """How the runner of this job is started. The caller removes the group once the runner is gone."""
    limit = spare_bytes() if confine.memory_bytes is None else confine.memory_bytes
    layout, why = groups.find()
    group = groups.Group(layout, limit) if layout else None
    namespaces = _namespaces()
    needed = [Path(job.bundle), *(Path(request.image) for request in job.requests)]
    folders = {path if path.is_dir() else path.parent for path in (*needed, *_code())}
    shown = {folder for folder in folders if _is_below(folder, confine.hidden)}
    passed = {above for folder in shown for above in folder.parents if _is_below(above, confine.hidden)}
    user, whose = _user(confine.users, needed, passed.union(confine.hidden))
    settings: dict[str, Any] = {
        "groups": [str(folder) for folder in group.folders] if group else [],
        "namespaces": namespaces,
        "read_only": sorted(str(folder) for folder in {*shown, Path(job.bundle)} if folder.is_dir()),
        "hidden": [str(folder) for folder in confine.hidden if folder.is_dir()],
        "limits": {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": MOST_WRITTEN,
            "RLIMIT_CPU": math.ceil(job.total_s * (os.cpu_count() or 1)),
        },
        "user": user,
    }
    return Plan(
        command=(*JAIL, json.dumps(settings), *command),
        environment={**environment(os.environ), **servers.handed_down()},
        group=group,
        isolation={
            "isolation.user": whose,
            "isolation.network": "none" if "network" in namespaces else "the agent's own",
            "isolation.memory": f"{limit >> 20} MiB" if group else f"no limit: {why}",
        },
    )


def describe(state: Path, users: Sequence[str] = USERS) -> dict[str, str]:
    """The ``isolation`` of :class:`hardware_profiles.wire.Facts`: each thing, and how; or ``none: `` and why not.

    ``state``: the agent's folder, in which the files of jobs are.
    """
    namespaces, (layout, why) = _namespaces(), groups.find()
    kinds = "network and mount namespaces" + (" in a user namespace" if "user" in namespaces else "")
    refused = "none: the kernel refuses new namespaces to this user"
    return {
        "user": _user(users, [state], (state,))[1],
        "network": f"none reachable but its own loopback ({kinds})" if namespaces else refused,
        "files": f"of the agent's folder only the job's own, read-only ({kinds})" if namespaces else refused,
        "memory": f"cgroup v{layout.version}, {spare_bytes() >> 20} MiB now" if layout else f"none: {why}",
        "processes": f"at most {groups.MOST_TASKS}, cgroup v{layout.version}" if layout else f"none: {why}",
        "time": "a deadline for each phase, RLIMIT_CPU",
        "environment": "only variables of paths, language and compute libraries",
    }


def spare_bytes() -> int:
    """The memory that a runner may take: what is available less what the agent keeps."""
    reserve = max(LEAST_RESERVE, int(proc.memory_total_bytes() * RESERVE))
    return max(64 << 20, proc.memory_available_bytes() - reserve)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What of our environment a runner sees: no token, no key, no proxy's password."""
    kept = {
        name: value
        for name, value in given.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and not any(word in name for word in _NO_TOKENS)
    }
    return kept | OFFLINE


@lru_cache(maxsize=1)
def _namespaces() -> tuple[str, ...]:
    """Which namespaces a child may leave, found out by leaving them once."""
    for which in (("network", "mounts"), ("user", "network", "mounts")):
        settings = {**_SETTINGS, "namespaces": which}
        command = (*JAIL, json.dumps(settings), sys.executable, "-I", "-S", "-c", "")
        if subprocess.run(command, capture_output=True, timeout=60).returncode == 0:
            return which
    return ()


def _code() -> list[Path]:
    """Where the runner's program is."""
    folders = (sys.prefix, sys.base_prefix, *filter(None, sys.path))
    return [Path(sys.executable), Path(sys.executable).resolve(), *map(Path, folders)]


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(folder in path.parents for folder in folders)


def _user(
    users: Sequence[str], paths: Iterable[Path], passed: Collection[Path]
) -> tuple[tuple[int, int, list[int]] | None, str]:
    """Whom the runner becomes, and who that is in words; null where it stays what the agent is, and why."""
    if os.getuid() != 0:
        return None, f"the agent's own (uid {os.getuid()}), which is not root"
    found = [pwd.getpwnam(name) for name in users if _exists(name)]
    if not found:
        return None, f"none: there is no user {' or '.join(users)}; the runner is root without its capabilities"
    one = found[0]
    for cure, wanted in (("install vlmfront and its Python", _code()), ("put it", paths)):
        for path in wanted:
            if closed := unreadable(path, one.pw_uid, one.pw_gid, passed):
                return None, (
                    f"none: the user {one.pw_name} cannot read {path}, because {closed} is closed to it; "
                    f"{cure} where all may read; the runner is root without its capabilities"
                )
    return (one.pw_uid, one.pw_gid, os.getgrouplist(one.pw_name, one.pw_gid)), one.pw_name


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def unreadable(path: Path, uid: int, gid: int, passed: Collection[Path] = ()) -> Path | None:
    """The first of a path and its parents that this user may not enter or read, by mode alone; null if there is none.

    What does not exist counts as readable: the runner says better what is missing. So does a folder that is ``passed``:
    in its place the jail makes one that anybody may enter.
    """
    for one in (*reversed(path.parents), path):
        if one in passed:
            continue
        try:
            found = one.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return one
        shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
        needed = 0o1 if one != path else 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
        if (found.st_mode >> shift) & needed != needed:
            return one
    return None
