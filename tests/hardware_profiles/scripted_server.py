"""A server whose every word a test writes: ``scripted_server.py PORT SCRIPT``, SCRIPT being JSON.

``before``: printed at the start; ``leave``: exit code at once. ``ready``: status of /health. ``child``: it starts a
process that sleeps. ``status`` and ``events`` of an answer: each event is ``[seconds to wait, text after "data: "]``; a
null text breaks the connection, ``die`` ends the server there. ``endless`` repeats the last event.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

script: dict[str, Any] = json.loads(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    """Answers by the script, without Content-Length: the end of an answer is that of the connection."""

    def do_GET(self) -> None:
        self.send_response(script.get("ready", 200))
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "seen" in script:
            with Path(script["seen"]).open("a") as stream:
                stream.write(json.dumps(asked) + "\n")
        self.send_response(script.get("status", 200))
        self.end_headers()
        events = list(script.get("events", []))
        for wait, text in events:
            self._event(wait, text)
        while script.get("endless"):
            self._event(*events[-1])

    def _event(self, wait: float, text: str | None) -> None:
        time.sleep(wait)
        if text == "die":
            print("the model fell over", file=sys.stderr, flush=True)
            os._exit(3)
        if text is not None:
            self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


print(script.get("before", ""), file=sys.stderr, flush=True)
if "leave" in script:
    sys.exit(script["leave"])
if script.get("child"):
    subprocess.Popen([sys.executable, "-c", "import sys, time; time.sleep(600)", script["child"]])
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
