"""The agent's audit log: one JSON line for each event that an owner may ask about afterwards. It holds no secrets."""

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

from hardware_profiles.held import locked
from spaces.printable import printable

LOG = "audit.jsonl"
MOST_BYTES = 1 << 20  # of one file; there are two, the older one is `audit.1.jsonl`
_MOST_DETAIL = 300


def note(state: Path, event: str, *, peer: str = "", detail: str = "") -> None:
    """Append a line to the log in the folder ``state``; ``peer`` is an address, or the fingerprint of a paired host.

    The lines are not fsynced one by one, unlike everything else here that lasts: strangers cause them, who could then
    wear out a memory card and disturb a measurement. A log that cannot be written never stops the agent.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = {"time": now, "peer": peer, "event": event, "detail": printable(detail, _MOST_DETAIL)}
    content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    path = state / LOG
    try:
        with locked(state / "audit.lock", exclusive=True):
            if path.exists() and path.stat().st_size + len(content) > MOST_BYTES:
                path.replace(path.with_suffix(".1.jsonl"))
            with path.open("a+b", buffering=0) as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, end - 1))
                cut_off = stream.read(1) not in (b"", b"\n")  # by a power failure: the next line is whole all the same
                stream.write(b"\n" * cut_off + content)
    except OSError as error:
        print(f"vlmfront-agent: {path} cannot be written ({error.strerror}): {event} {peer}", file=sys.stderr)
