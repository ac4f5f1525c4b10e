"""Faults at every change of a folder: the processes that share a plan count their changes, and one is the last.

A change is what a full disk may refuse (``create``, ``write``, ``close``, ``fsync``, ``rename``, ``link``, ``mkdir``)
or what only a kill may cut off (``remove``, ``truncate``). With ``kill`` the change of that number is half made (a
write) or not made at all, and the whole process group dies of SIGKILL. With ``full`` it fails, and every later one too,
until there is a file ``<log>.room``.

A child process that is spawned takes part through ``sitecustomize`` beside this file, one that is forked anyway.
"""

import builtins
import errno
import fcntl
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

VARIABLE = "VLMFRONT_FAULTS"
ROOMS = ("spaces", "hardware_profiles", "objectives", "reports", "search")
REFUSABLE = ("create", "write", "close", "fsync", "rename", "link", "mkdir")
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
_PLACES = tuple(os.path.join(_HOME, room, "") for room in ROOMS)  # noqa: PTH118
_open, _write, _fsync, _lexists = io.open, os.write, os.fsync, os.path.lexists


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens below the folder ``root`` at change number ``at``; each change is a line of the file ``log``."""

    root: str
    log: str
    mode: Literal["log", "kill", "full"] = "log"
    at: int = 0
    error: int = errno.ENOSPC

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def install(plan: Plan) -> None:
    """Patch this process. It stays so to its end."""
    faults = _Faults(plan)
    builtins.open = io.open = faults.open
    faults.patch("fsync", "fsync")
    faults.patch("rename", "rename", 0)
    faults.patch("replace", "rename", 0)
    faults.patch("link", "link", 1)
    faults.patch("symlink", "link", 1)
    faults.patch("mkdir", "mkdir")
    faults.patch("unlink", "remove")
    faults.patch("remove", "remove")
    faults.patch("rmdir", "remove")
    faults.patch("truncate", "truncate")
    faults.patch("ftruncate", "truncate")
    faults.patch("sendfile", "write")
    faults.patch_write()
    faults.patch_open()


class _Faults:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._root = os.path.realpath(plan.root) + os.sep

    def below(self, path: Any, folder: int | None = None) -> str:
        """The path relative to the root; empty where it is not below it."""
        if isinstance(path, int):
            found = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
        else:
            found = os.fsdecode(path)
            if folder is not None:
                found = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), found)  # noqa: PTH115, PTH118
        found = os.path.abspath(found)  # noqa: PTH100
        return found[len(self._root) :] if found.startswith(self._root) else ""

    def change(self, kind: str, where: str) -> str:
        """Count a change; what is to become of it: nothing, or ``half`` or ``refuse``."""
        log = os.open.__wrapped__ if hasattr(os.open, "__wrapped__") else os.open
        descriptor = log(self._plan.log, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = f"{kind} {_site()} {where}".replace("\n", " ").encode()[:198]
            _write(descriptor, text.ljust(199) + b"\n")
            number = os.lseek(descriptor, 0, os.SEEK_END) // 200
        finally:
            os.close(descriptor)
        if self._plan.mode == "kill" and number >= self._plan.at:
            if kind == "write" and number == self._plan.at:
                return "half"
            self.die()
        full = self._plan.mode == "full" and not _lexists(f"{self._plan.log}.room")
        if full and number >= self._plan.at and kind in REFUSABLE:
            return "half" if kind == "write" and number == self._plan.at else "refuse"
        return ""

    def die(self) -> None:
        os.killpg(os.getpgid(0), signal.SIGKILL)

    def refuse(self, path: Any = None) -> OSError:
        text = os.strerror(self._plan.error)
        return OSError(self._plan.error, text) if path is None else OSError(self._plan.error, text, os.fspath(path))

    def write(self, real: Callable[[Any], int], data: Any, where: str) -> int:
        answer = self.change("write", where)
        if answer == "half":
            content = bytes(data)
            done = real(content[: len(content) // 2])
            if self._plan.mode == "kill":
                self.die()
            if done:
                return done
        if answer:
            raise self.refuse()
        return real(data)

    def patch(self, name: str, kind: str, place: int = 0) -> None:
        real = getattr(os, name)

        def patched(*arguments: Any, **named: Any) -> Any:
            folder = named.get("dir_fd") or named.get("src_dir_fd")
            where = self.below(arguments[place], folder)
            if kind == "mkdir" and os.path.isdir(arguments[place]):  # noqa: PTH112
                where = ""  # changes nothing
            if where and self.change(kind, where):
                raise self.refuse(None if isinstance(arguments[place], int) else arguments[place])
            return real(*arguments, **named)

        setattr(os, name, patched)

    def patch_write(self) -> None:
        def patched(descriptor: int, data: Any) -> int:
            where = self.below(descriptor)
            return self.write(lambda part: _write(descriptor, part), data, where) if where else _write(descriptor, data)

        os.write = patched

    def patch_open(self) -> None:
        real = os.open

        def patched(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if flags & os.O_CREAT and not _lexists(path):
                where = self.below(path, named.get("dir_fd"))
                if where and self.change("create", where):
                    raise self.refuse(path)
            return real(path, flags, *arguments, **named)

        patched.__wrapped__ = real  # type: ignore[attr-defined]
        os.open = patched

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """``io.open``, whose writable files below the root count what reaches the system."""
        where = "" if isinstance(file, int) or not set(mode) & set("wxa+") else self.below(file)
        if not where:
            return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not _lexists(file) and self.change("create", where):
            raise self.refuse(file)
        raw = _Raw(self, where, file, mode.replace("b", "").replace("t", ""), opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline)


class _Raw(io.FileIO):
    def __init__(self, faults: _Faults, where: str, file: Any, mode: str, opener: Any) -> None:
        super().__init__(file, mode, opener=opener)
        self._faults, self._where, self._written = faults, where, False

    def write(self, data: Any) -> int:
        self._written = True
        return self._faults.write(super().write, data, self._where)

    def close(self) -> None:
        refused = not self.closed and self._written and self._faults.change("close", self._where)
        super().close()
        if refused:
            raise self._faults.refuse()


def _site() -> str:
    """The two innermost functions of the product that the change comes from."""
    frame: Any = sys._getframe(2)
    found: list[str] = []
    while frame is not None and len(found) < 2:
        path = frame.f_code.co_filename
        if path.startswith(_PLACES):
            site = f"{os.path.basename(path)}:{frame.f_code.co_name}"  # noqa: PTH119
            if not found or found[-1] != site:
                found.append(site)
        frame = frame.f_back
    return "<".join(found) or "elsewhere"


def from_environment() -> None:
    if VARIABLE in os.environ:
        install(Plan(**json.loads(os.environ[VARIABLE])))
