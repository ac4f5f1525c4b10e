"""``vlmfront-agent`` whose runners go through ``paced_runner.py``: PACED... VERB..., where PACED are its arguments.

Everything but the runner's command is the agent's own; a device's owner could not tell it from a slow device.
"""

import sys
from functools import partial
from pathlib import Path

from hardware_profiles.agent import cli, serve
from hardware_profiles.agent.service import Service
from hardware_profiles.agent.supervisor import RUNNER

PACED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("paced_runner.py")))

if __name__ == "__main__":
    paced, asked = sys.argv[1:3], sys.argv[3:]
    vars(serve)["Service"] = partial(Service, command=(*PACED, *paced, *RUNNER))
    cli.main(asked)
