"""What the agent says of itself and of what is installed beside it."""

from importlib.metadata import entry_points
from pathlib import Path

from hardware_profiles.agent.facts import boot_id, installed, runtimes
from hardware_profiles.agent.servers import read_servers
from hardware_profiles.runtimes import GROUP
from hardware_profiles.wire import PROTOCOLS, Facts, Hello
from spaces.errors import BadInput


def hello(state: Path, facts: Facts, disk_free_bytes: int) -> Hello:
    """The agent whose folder is ``state``; looks at what is installed now, and imports none of it."""
    servers = _servers(state)
    found = runtimes() | ({"server": installed("vlmfront")} if servers else {})
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry.dist.version if entry.dist else "")
    return Hello(
        protocols=PROTOCOLS,
        agent=installed("vlmfront"),
        boot_id=boot_id(),
        runtimes=found,
        facts=facts,
        servers=servers,
        disk_free_bytes=disk_free_bytes,
    )


def _servers(state: Path) -> tuple[str, ...]:
    """The names in the owner's own list of servers; none where there is no list, or no sound one."""
    try:
        return tuple(sorted(read_servers(state)))
    except BadInput:
        return ()
