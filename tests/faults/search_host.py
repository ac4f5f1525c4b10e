"""A host of its own process, which asks one question of a device and says what becomes of it, one JSON line each.

``python search_host.py SETTINGS``: the arguments of ``main``, as JSON; ``answer_s`` is how long a call may stall. It
begins at a line on its standard input, and closes the device at another.
"""

import json
import sys
import threading
from pathlib import Path

from hardware_profiles.devices import connection, lease, open_device
from hardware_profiles.messages import JobFailed, Request


def say(**content: object) -> None:
    print(json.dumps(content), flush=True)


def main(
    device: str,
    owner: str,
    ttl_s: float,
    patience_s: float,
    bundle: str,
    image: str,
    question: str,
    answer_s: float = connection.ANSWER_S,
) -> None:
    connection.ANSWER_S = answer_s
    lease.DeviceLease.__init__.__defaults__ = (ttl_s,)
    never = threading.Event()
    say(ready=True)
    sys.stdin.readline()
    asked = (Request(id="0", image=image, question=question),)
    opened = open_device(
        device, cancel=never, owner=owner, patience_s=patience_s, waiting=lambda text: say(waiting=text)
    )
    say(opened=True)
    try:
        answered = opened.answer(Path(bundle), asked, cancel=never)
        say(answered=answered.answers[0].text)
    except JobFailed as fault:
        say(fault=fault.fault, reason=fault.reason)
    sys.stdin.readline()
    opened.close()
    say(closed=True)


main(**json.loads(sys.argv[1]))
