"""Servers that the device itself can start, for the runtime ``server``: ``servers.json`` in the agent's state folder.

The device's owner writes it; a host sends a server's name and nothing else. One entry for each server::

    {"llama": {"command": ["llama-server", "-m", "{model}", "--mmproj", "{mmproj}", "--host", "127.0.0.1",
                           "--port", "{port}"],
               "ready": "/health", "model": "any", "start_s": 120, "request": {"cache_prompt": false}}}

Only ``command`` must be there; the other values here are the defaults, but for ``model``, which is the entry's name.

``command`` is an argument list, never a shell's line. In it ``{model}`` is the bundle's GGUF or, where it has none, its
folder; ``{mmproj}`` is its GGUF of that name; ``{bundle}`` its folder; ``{port}`` where the server has to listen, on
127.0.0.1. ``ready`` answers GET with 200 once the model is loaded, within ``start_s`` seconds. ``model`` is the name
sent in requests. ``request`` is added to each of them. A server that keeps the prompts it has seen answers a repeated
one sooner than it would in use: llama.cpp does not where ``cache_prompt`` is false (tools/server/README.md), vLLM where
its command has ``--no-enable-prefix-caching``. A server that refuses fields it does not know wants ``"request": {}``.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_profiles.agent.state import state_folder
from spaces.errors import BadInput
from spaces.serving import SERVER_NAME

FILE = "servers.json"
LONGEST_START_S = 3600.0
UNCACHED = {"cache_prompt": False}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_KNOWN = ("model", "mmproj", "port", "bundle")
_MOST_BYTES = 1 << 16  # an environment variable holds twice as much, see execve(2)
_HANDED_DOWN = "VLMFRONT_SERVERS"
_OURS = ("messages", "stream", "stream_options", "max_tokens", "temperature", "model")


@dataclass(frozen=True, kw_only=True)
class Server:
    """One entry of the file; see the module."""

    name: str
    command: tuple[str, ...]
    ready: str
    model: str
    start_s: float
    request: Mapping[str, Any] = field(default_factory=dict)

    def line(self, bundle: Path, port: int) -> list[str]:
        """The command with its placeholders filled in.

        Raises:
            BadInput: the bundle lacks a file that the command names, or has several that it could be.
        """
        values = {"port": str(port), "bundle": str(bundle)}
        wanted = {found for item in self.command for found in _PLACEHOLDER.findall(item)}
        if "model" in wanted:
            values["model"] = str(_model(bundle))
        if "mmproj" in wanted:
            values["mmproj"] = str(_mmproj(bundle))
        return [_PLACEHOLDER.sub(lambda match: values[match[1]], item) for item in self.command]


def handed_down() -> dict[str, str]:
    """What the environment of a runner, or of an agent with another folder, needs in order to know the same servers."""
    path = state_folder() / FILE
    if _HANDED_DOWN in os.environ:
        return {_HANDED_DOWN: os.environ[_HANDED_DOWN]}
    try:
        return {_HANDED_DOWN: _text_of(path)} if path.exists() else {}
    except (BadInput, OSError):
        return {}  # the runner says what is wrong, should its job need a server


def read_servers(state: Path | None = None) -> dict[str, Server]:
    """The device's servers, by name; none where there is no file. ``state`` is the agent's folder if not the usual one.

    Raises:
        BadInput: one sentence that names the file and the field.
    """
    path = (state or state_folder()) / FILE
    text = os.environ.get(_HANDED_DOWN)
    if text is None:
        if not path.exists():
            return {}
        text = _text_of(path)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}); mend that line.") from error
    if not isinstance(body, dict):
        raise BadInput(f"{path}: an object of servers by name is expected.")
    return {name: _server(path, name, entry) for name, entry in body.items()}


def _text_of(path: Path) -> str:
    try:
        status = path.stat()
        if status.st_size > _MOST_BYTES:
            raise BadInput(f"{path} is larger than {_MOST_BYTES} bytes; a server takes a few lines.")
        if status.st_mode & stat.S_IWOTH:
            raise BadInput(f"{path} may be written by anybody, and its commands are run; chmod o-w {path}.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give the agent the right to read it.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8.") from error


def find_server(name: str) -> Server:
    """The server of this name.

    Raises:
        BadInput: there is none, or the file is not as it should be.
    """
    path, servers = state_folder() / FILE, read_servers()
    if name not in servers:
        known = f"it has {', '.join(servers)}" if servers else "it has none"
        raise BadInput(f"{path} names no server {name!r} ({known}); add it there, or use another runtime.server.")
    return servers[name]


def _server(path: Path, name: str, entry: Any) -> Server:
    where = f"{path}: {name}"
    if not SERVER_NAME.fullmatch(name):
        raise BadInput(f"{where!r}: a name of 1 to 64 letters, digits, '.', '_' or '-' is expected.")
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: an object with a command is expected.")
    fields = ("command", "ready", "model", "start_s", "request")
    if unknown := sorted(set(entry) - set(fields)):
        raise BadInput(f"{where}.{unknown[0]} is no field of a server; there are {', '.join(fields)}.")
    start_s = entry.get("start_s", 120)
    request = entry.get("request", UNCACHED)
    checks = {
        "ready": _text(ready := entry.get("ready", "/health")) and ready.startswith("/"),
        "model": _text(model := entry.get("model", name)),
        "start_s": isinstance(start_s, int | float)
        and not isinstance(start_s, bool)
        and 0 < start_s <= LONGEST_START_S,
        "request": isinstance(request, dict) and not set(request) & set(_OURS),
    }
    expected = {
        "ready": "a path that begins with '/'",
        "model": "a text",
        "start_s": f"a number of seconds above 0, at most {LONGEST_START_S:g},",
        "request": f"an object without {', '.join(_OURS)}",
    }
    for key, holds in checks.items():
        if not holds:
            raise BadInput(f"{where}.{key}: {expected[key]} is expected.")
    command = _command(where, entry.get("command"))
    return Server(name=name, command=command, ready=ready, model=model, start_s=float(start_s), request=request)


def _command(where: str, items: Any) -> tuple[str, ...]:
    if not isinstance(items, list) or not items or not all(map(_text, items)):
        raise BadInput(f"{where}.command: a list of texts is expected, the program first.")
    wanted = [found for item in items for found in _PLACEHOLDER.findall(item)]
    if unknown := [found for found in wanted if found not in _KNOWN]:
        known = ", ".join(f"{{{name}}}" for name in _KNOWN)
        raise BadInput(f"{where}.command: {{{unknown[0]}}} is no placeholder; there are {known}.")
    if _PLACEHOLDER.search(items[0]):
        raise BadInput(f"{where}.command: the program comes from this device, not from a bundle; name it in full.")
    if "port" not in wanted:
        raise BadInput(f"{where}.command: {{port}} is missing, so the server would not be found; add it.")
    return tuple(items)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _model(bundle: Path) -> Path:
    """The bundle's GGUF (the first of its shards) that is no projector; the folder itself where it has no GGUF."""
    found = [path for path in sorted(bundle.glob("*.gguf")) if "mmproj" not in path.name]
    heads = [path for path in found if not re.search(r"-\d{5}-of-\d{5}$", path.stem) or "-00001-of-" in path.stem]
    if len(heads) > 1:
        raise BadInput(f"{bundle} holds {heads[0].name} and {heads[1].name}; a server is started with one model.")
    return heads[0] if heads else bundle


def _mmproj(bundle: Path) -> Path:
    found = sorted(bundle.glob("*mmproj*.gguf"))
    if len(found) != 1:
        raise BadInput(f"{bundle} holds {len(found)} files named *mmproj*.gguf, and the server's command needs one.")
    return found[0]
