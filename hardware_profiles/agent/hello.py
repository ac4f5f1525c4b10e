"""What the agent says of itself and of what is installed beside it."""

from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from hardware_profiles.agent.facts import RUNTIMES, boot_id
from hardware_profiles.agent.servers import read_servers
from hardware_profiles.runtimes import BUILT_IN, GROUP
from hardware_profiles.wire import PROTOCOLS, Facts, Hello
from spaces.errors import BadInput


def hello(state: Path, facts: Facts, disk_free_bytes: int) -> Hello:
    """The agent whose folder is ``state``; looks at what is installed now, and imports none of it."""
    servers = _servers(state)
    runtimes = {name: found for name in BUILT_IN if (found := installed(RUNTIMES.get(name, "vlmfront")))}
    if not servers:
        runtimes.pop("server", None)
    for entry in entry_points(group=GROUP):
        runtimes.setdefault(entry.name, entry.dist.version if entry.dist else "")
    return Hello(
        protocols=PROTOCOLS,
        agent=installed("vlmfront"),
        boot_id=boot_id(),
        runtimes=runtimes,
        facts=facts,
        servers=servers,
        disk_free_bytes=disk_free_bytes,
    )


def installed(distribution: str) -> str:
    """The version of a distribution; empty where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _servers(state: Path) -> tuple[str, ...]:
    """The names in the owner's own list of servers; none where there is no list, or no sound one."""
    try:
        return tuple(sorted(read_servers(state)))
    except BadInput:
        return ()
