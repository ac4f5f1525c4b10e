"""``vlmfront-agent`` with what a test cannot bring about on a real machine. Run by its path, settings first, as JSON.

Settings, none of which is needed: ``runner`` is started in place of the real one; ``boot_id`` is that of the kernel;
``token_s`` is how long a token lives; ``haste`` is how much faster leases run out. At SIGUSR1 the agent takes 4 GiB.
"""

import json
import signal
import sys
import time
from typing import Any

from hardware_profiles.agent import cli, facts, hello, identity, leases, service


def change(settings: dict[str, Any]) -> None:
    """Put the settings in place. The search for accelerators is left out: it takes seconds, and no test here asks."""
    facts.accelerators = dict  # type: ignore[assignment]
    if settings.get("runner"):
        service.Service.__init__.__kwdefaults__ |= {"command": tuple(settings["runner"])}  # type: ignore[operator]
    if "boot_id" in settings:
        for module in (service, hello, identity):
            module.boot_id = lambda: settings["boot_id"]  # type: ignore[attr-defined]
    if "haste" in settings:
        leases.Leases.__init__.__defaults__ = (lambda: settings["haste"] * time.monotonic(),)
    if "token_s" in settings:
        identity.TOKEN_S = settings["token_s"]


def hoard(*_: object) -> None:
    """Touch more memory than there is, in one go: no other thread sees what the kernel kills for it meanwhile."""
    bytes([1]) * (4 << 30)


if __name__ == "__main__":
    change(json.loads(sys.argv[1]))
    signal.signal(signal.SIGUSR1, hoard)
    cli.main(sys.argv[2:])
