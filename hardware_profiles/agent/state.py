"""Where an agent keeps what is its own."""

import os
from pathlib import Path

from hardware_profiles.store import write_atomic
from spaces.errors import BadInput

VARIABLE = "VLMFRONT_AGENT_STATE"
SECRETS = ("identity", "paired", "tokens")  # folders of it


def state_folder() -> Path:
    """``$VLMFRONT_AGENT_STATE``, else ``vlmfront-agent`` below the XDG state folder of this user."""
    given = os.environ.get(VARIABLE)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(given) if given else home / "vlmfront-agent"


def count_start(path: Path) -> int:
    """How often an agent was started in this folder, this start included; written down before anything else happens.

    Raises:
        BadInput: the file holds something else.
    """
    try:
        count = int(path.read_text()) if path.exists() else 0
        if count < 0:
            raise ValueError(f"{count} is negative")
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} does not count the agent's starts ({error}); give the agent another folder.") from None
    write_atomic(path, f"{count + 1}\n")
    return count + 1
