"""The first thing a runner's process does: give up what it does not need, then become the runner. Run by its path.

``python -I -S jail.py SETTINGS COMMAND...``; SETTINGS is what :mod:`hardware_profiles.agent.confine` made, as JSON.
A program of its own rather than a ``preexec_fn``, which may deadlock in a process with threads (subprocess, Python
documentation). Linux only: unshare(2), mount(2), prctl(2), capabilities(7), user_namespaces(7), netdevice(7).
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = 2 | 4 | 8  # nosuid, nodev, noexec: a remount in a user namespace may not clear them; ST_ and MS_ agree
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITIES_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, whose sets are 2 of 3 x 32 bits
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
FIRST_VICTIM = "1000"  # oom_score_adj: the kernel kills the runner before the agent, see proc(5)

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: Sequence[str]) -> None:
    """Confine this process as the settings say, then execute the command; exit code 1 with a reason if it cannot."""
    settings, command = json.loads(arguments[0]), list(arguments[1:])
    try:
        confine(settings)
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"the runner cannot be confined: {error}")


def confine(settings: Mapping[str, Any]) -> None:
    """Join the control groups, leave network and writable places behind, then the user, then every capability.

    In this order: each needs those after it. A runner that kept capabilities, as root in its namespaces has them, could
    unmount what hides the agent's files.

    Raises:
        OSError: the kernel refuses.
    """
    for group in settings["groups"]:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    Path("/proc/self/oom_score_adj").write_text(FIRST_VICTIM)
    if settings["namespaces"]:
        _leave_namespaces(settings["namespaces"])
    if "network" in settings["namespaces"]:
        _loopback_up()
    if "mounts" in settings["namespaces"]:
        _mounts(settings["hidden"], settings["read_only"])
    for name, limit in settings["limits"].items():
        _lower(getattr(resource, name), limit)
    last = 0
    while _libc.prctl(PR_CAPBSET_DROP, last, 0, 0, 0) == 0:  # until there are no more, or no right to drop one
        last += 1
    if settings["user"]:
        uid, gid, groups = settings["user"]
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _check(_libc.capset(struct.pack("Ii", CAPABILITIES_3, 0), bytes(24)), "capset")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _leave_namespaces(which: Sequence[str]) -> None:
    flags = (CLONE_NEWNET if "network" in which else 0) | (CLONE_NEWNS if "mounts" in which else 0)
    uid, gid = os.getuid(), os.getgid()
    if "user" not in which:
        _check(_libc.unshare(flags), "unshare")
        return
    _check(_libc.unshare(flags | CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _loopback_up() -> None:
    """A new network namespace has nothing but a loopback that is down; the runtime ``server`` talks over it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        fcntl.ioctl(wire, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def _mounts(hidden: Sequence[str], read_only: Sequence[str]) -> None:
    """Empty the hidden folders but for what is read-only in them, which alone is mounted there again."""
    _mount("none", "/", MS_REC | MS_PRIVATE)
    held = {folder: os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in read_only}
    for folder in hidden:
        _mount("none", folder, 0, "tmpfs")
    before = os.umask(0o022)  # whoever the runner becomes may pass
    for folder, handle in held.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", folder, MS_BIND | MS_REC)
    os.umask(before)
    for folder in (*read_only, *hidden):
        _mount("none", folder, MS_REMOUNT | MS_BIND | MS_RDONLY | (os.statvfs(folder).f_flag & KEPT_FLAGS))


def _mount(source: str, target: str, flags: int, kind: str = "none") -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _check(done, f"mount on {target}")


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
