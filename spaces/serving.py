"""What a candidate may say of a server that the target device starts: its name. Standard library only."""

import re

SERVER = "server"
"""The value of ``runtime.name`` for a server of the device's own configuration."""
SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
