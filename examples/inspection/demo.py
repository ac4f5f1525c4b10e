"""The demo: draw the task, search, pick, export, ask. Prints each command before it runs it.

    python examples/inspection/demo.py [--run runs/demo]

A demo that was interrupted goes on where it was.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).resolve().parent))
VLMFRONT = [sys.executable, "-m", "search.cli"]


def call(*arguments: object) -> None:
    """Show a ``vlmfront`` command and run it; the demo ends where one fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ vlmfront {shlex.join(words)}", flush=True)
    code = subprocess.run([*VLMFRONT, *words], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Search, pick, export and ask, on the inspection example.")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    run: Path = parser.parse_args().run
    begun = time.monotonic()
    print(f"$ python {HERE / 'draw.py'}", flush=True)
    subprocess.run([sys.executable, HERE / "draw.py"], check=True)
    call("search", HERE / "search.yaml", "--run", run, *(["--resume"] if run.exists() else []))
    call("pick", run, "--prefer", "knee")
    number = json.loads((run / "pick.json").read_text())["trial"]
    bundle = run / f"trial-{number}"
    if not bundle.exists():
        call("export", run, number, bundle)
    rows = [json.loads(line) for line in (HERE / "data" / "search.jsonl").read_text().splitlines()[:3]]
    for row in rows:
        image = HERE / "data" / row["image"]
        call("run", bundle, "--image", image, "--question", row["question"], "--field", f"kind={row['kind']}")
        print(f"(the reference answer is: {row['answer']})")
    print(f"\nThe demo took {time.monotonic() - begun:.0f} s. Open {run / 'report.html'} in a browser.")
    print("'. .venv/bin/activate' puts vlmfront on your path.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command goes on where it was.")
