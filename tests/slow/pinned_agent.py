"""``vlmfront-agent`` whose runners go through ``pinned_runner.py``: PINNED... VERB..., where PINNED are its arguments.

Everything but the runner's command is the agent's own; a device's owner could not tell it from a slow device.
"""

import sys
from functools import partial
from pathlib import Path

from hardware_profiles.agent import cli, serve
from hardware_profiles.agent.service import Service
from hardware_profiles.agent.supervisor import RUNNER

PINNED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("pinned_runner.py")))

if __name__ == "__main__":
    pinned, asked = sys.argv[1:4], sys.argv[4:]
    vars(serve)["Service"] = partial(Service, command=(*PINNED, *pinned, *RUNNER))
    cli.main(asked)
