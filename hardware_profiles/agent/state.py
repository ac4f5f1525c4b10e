"""Where an agent keeps what is its own."""

import os
from pathlib import Path

VARIABLE = "VLMFRONT_AGENT_STATE"
SECRETS = ("identity", "paired", "tokens")  # folders of it


def state_folder() -> Path:
    """``$VLMFRONT_AGENT_STATE``, else ``vlmfront-agent`` below the XDG state folder of this user."""
    given = os.environ.get(VARIABLE)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(given) if given else home / "vlmfront-agent"
