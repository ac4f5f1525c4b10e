"""The device's own command, ``vlmfront-agent``. A device has no more than it must: argparse, no typer."""

import argparse
import json
import logging
import os
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from hardware_profiles.agent import audit, serve
from hardware_profiles.agent.identity import Paired
from hardware_profiles.agent.layout import MOST_SUSTAINED_S
from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.parent import die_with_parent
from hardware_profiles.agent.state import VARIABLE, state_folder
from hardware_profiles.agent.status import in_words, status
from hardware_profiles.ask import check_hint, field_of
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Job, JobFailed, Measurement, Request, encode
from hardware_profiles.store import DISK_ERRORS
from hardware_profiles.wire import DEFAULT_PORT
from spaces.errors import BadInput
from spaces.images import read_image

LEAST_ANSWERS = 11
MOST_PORT = 65535
SERVICE_STATE = Path("/var/lib/vlmfront-agent")
_DEFAULT_STATE = f"${VARIABLE}, else $XDG_STATE_HOME/vlmfront-agent, else ~/.local/state/vlmfront-agent"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(MB|GB|TB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_PARTS = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "e2e_ms", "inter_token_ms")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the measurement failed or the disk is full, 2 bad input, 130 interrupted."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except BadInput as error:
        _end(str(error), 2)
    except JobFailed as error:
        _end(*((error.reason, 2) if error.fault == "INVALID_INPUT" else (str(error), 1)))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _end(f"{error.filename or 'the disk'} cannot be written ({error.strerror}); make room and start again.", 1)
    except KeyboardInterrupt:
        _end("interrupted", 130)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else here does, without the usage."""

    def error(self, message: str) -> NoReturn:
        _end(f"{message}; see {self.prog} --help", 2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vlmfront-agent", description="What a device does for vlmfront: load bundles, answer, measure."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    one = verbs.add_parser(
        "measure",
        help="measure a bundle on this machine: latency, its parts, memory",
        description="Measure a bundle on this machine: latency, its parts, memory.",
        epilog="Example: vlmfront-agent measure deploy/ --image part.png --question 'is the guard open ?'",
    )
    one.add_argument("bundle", type=Path, help="folder of a bundle")
    one.add_argument("--image", type=Path, required=True, help="image file to ask about")
    one.add_argument("--question", required=True, help="what to ask; the bundle's prompt goes around it")
    one.add_argument("--answers", type=_answers, default=30, help="timed answers after warm-up (default 30)")
    one.add_argument(
        "--sustained", type=_seconds, default=0.0, metavar="SECONDS", help="answer for so long at least: does it slow?"
    )
    one.add_argument("--field", action="append", default=[], help="NAME=VALUE that hints or exemplars go by")
    one.add_argument("--json", action="store_true", help="print the raw measurement as one line of JSON")
    one.set_defaults(run=_measure)
    _serving(verbs)
    return parser


def _serving(verbs: Any) -> None:
    one = verbs.add_parser(
        "serve",
        help="serve paired hosts",
        description="Serve paired hosts: take their bundles, answer and measure. Ends at SIGTERM or Ctrl-C.",
        epilog="Example: vlmfront-agent serve --host 0.0.0.0",
    )
    one.add_argument(
        "--host", default=serve.LOOPBACK, help=f"address to listen on (default {serve.LOOPBACK}; 0.0.0.0 is every one)"
    )
    one.add_argument("--port", type=_port, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0 picks a free one")
    one.add_argument("--disk", type=_size, default="20GB", help="what bundles may take (default 20GB)")
    one.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    one.add_argument("--systemd", action="store_true", help="print a unit file for these settings instead")
    one.set_defaults(run=_serve)
    two = verbs.add_parser(
        "pair",
        help="make a one-time token by which a host pairs with this device",
        description="Make a one-time token by which a host pairs with this device; it is valid for ten minutes.",
        epilog="Example: vlmfront-agent pair. For scripts: vlmfront-agent pair --json",
    )
    two.set_defaults(run=_pair)
    three = verbs.add_parser(
        "unpair",
        help="refuse a paired host from now on",
        description="Refuse a paired host from now on.",
        epilog="Example: vlmfront-agent unpair laptop",
    )
    three.add_argument("name", help="as vlmfront-agent paired has it")
    three.set_defaults(run=_unpair)
    four = verbs.add_parser(
        "paired",
        help="list the paired hosts",
        description="List the paired hosts: name, since when, and the beginning of the certificate's fingerprint.",
        epilog="Example: vlmfront-agent paired. For scripts: vlmfront-agent paired --json",
    )
    four.set_defaults(run=_paired)
    five = verbs.add_parser(
        "status",
        help="show what the agent does, who holds the device and who waits, its disk, paired hosts and versions",
        description="Show what the agent does. It is not asked, and a measurement is not disturbed.",
        epilog=f"Example: vlmfront-agent status. Of the service: vlmfront-agent status --state {SERVICE_STATE}",
    )
    five.set_defaults(run=_status)
    for verb in (one, two, three, four, five):
        verb.add_argument("--state", type=Path, metavar="FOLDER", help=f"the agent's folder (default {_DEFAULT_STATE})")
        verb.add_argument("--json", action="store_true", help="print one line of JSON")


def _answers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < LEAST_ANSWERS:
        raise argparse.ArgumentTypeError(f"a whole number of at least {LEAST_ANSWERS} is expected, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > MOST_PORT:
        raise argparse.ArgumentTypeError(f"a port from 0 to {MOST_PORT} is expected, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= MOST_SUSTAINED_S:
        raise argparse.ArgumentTypeError(f"0 to {MOST_SUSTAINED_S:g} seconds are expected, not {text!r}")
    return found


def _measure(asked: argparse.Namespace) -> None:
    read_image(asked.image)
    fields = dict(field_of(text) for text in asked.field)
    check_hint(asked.bundle, open_bundle(asked.bundle).manifest.prompt, fields)
    request = Request(id="0", image=str(asked.image.resolve()), question=asked.question, fields=fields)
    job = Job(
        kind="measure",
        bundle=str(asked.bundle.resolve()),
        requests=(request,),
        min_answers=asked.answers,
        sustained_s=asked.sustained,
    )
    measured = measure(job)
    if asked.json:
        print(json.dumps(asdict(measured), separators=(",", ":"), allow_nan=False))
    else:
        _show(asked.bundle, measured)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"a size like 20GB is expected (MB, GB or TB), not {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _state(asked: argparse.Namespace) -> Path:
    """The agent's folder, which only its owner may read; made at need."""
    state = Path(asked.state or state_folder()).absolute()
    serve.identity(state)
    return state


def _existing_state(asked: argparse.Namespace) -> Path:
    """The agent's folder, as it is."""
    state = Path(asked.state or state_folder()).absolute()
    if not (os.access(state, os.F_OK) and state.is_dir()):
        raise BadInput(f"there is no folder {state}; name the one that the agent serves with --state.")
    if not os.access(state, os.R_OK | os.X_OK):
        raise BadInput(f"{state} cannot be read by this user; ask as the user that the agent runs as.")
    return state


def _serve(asked: argparse.Namespace) -> None:
    if asked.systemd:
        print(serve.unit(asked.state or SERVICE_STATE, asked.host, asked.port, asked.disk), end="")
        return
    if asked.with_parent:
        die_with_parent()
    logging.basicConfig(format="vlmfront-agent: %(message)s", level=logging.WARNING)

    def ready(listening: serve.Ready) -> None:
        if asked.json:
            print(encode(listening), flush=True)
        else:
            print(f"listening on {listening.host}:{listening.port}, certificate {listening.fingerprint}", flush=True)

    serve.serve(_state(asked), host=asked.host, port=asked.port, disk_bytes=asked.disk, ready=ready)


def _pair(asked: argparse.Namespace) -> None:
    state = _state(asked)
    made = serve.invite(state)
    if asked.json:
        print(encode(made))
    else:
        print(made.token)
        print("On the host, within ten minutes, with a name of your own for this device:")
        print(f"vlmfront device add NAME {made.address} {made.token}")
        if made.elsewhere not in (None, made.address):
            print(f"or, where {made.address} is not found:")
            print(f"vlmfront device add NAME {made.elsewhere} {made.token}")
    start = "vlmfront-agent serve --host 0.0.0.0" + (f" --state {shlex.quote(str(state))}" if asked.state else "")
    if not made.serving:
        print(f"No agent serves {state} now, so no host can use the token until one does: {start}", file=sys.stderr)
    elif made.address.strip("[").startswith(serve.LOOPBACKS):
        print(f"Hosts elsewhere cannot reach this address: {start}", file=sys.stderr)
    elif made.elsewhere is None:
        print("This device has no address that others could reach: connect it to their network.", file=sys.stderr)


def _unpair(asked: argparse.Namespace) -> None:
    state = _existing_state(asked)
    if not Paired(state).remove(asked.name):
        raise BadInput(f"no paired host is called {asked.name!r}; vlmfront-agent paired lists them.")
    audit.note(state, "unpaired", detail=asked.name)
    print(json.dumps({"unpaired": asked.name}) if asked.json else f"{asked.name} is refused from now on")


def _paired(asked: argparse.Namespace) -> None:
    hosts = Paired(_existing_state(asked)).hosts()
    if asked.json:
        print(
            json.dumps([{"name": host.name, "since": host.since, "fingerprint": peer} for peer, host in hosts.items()])
        )
        return
    for peer, host in hosts.items():
        print(f"{host.name:<24} since {host.since}  {peer[:16]}")


def _status(asked: argparse.Namespace) -> None:
    found = status(_existing_state(asked))
    print(encode(found) if asked.json else in_words(found))


def _end(message: str, code: int) -> NoReturn:
    print(f"vlmfront-agent: {message}", file=sys.stderr)
    sys.exit(code)


def _show(bundle: Path, measured: Measurement) -> None:
    timings, process = measured.timings, measured.processes[0]
    print(f"{bundle.name}: {len(timings)} answers, ms")
    print(f"{'part':<16}{'median':>9}{'least':>9}{'most':>9}")
    for part in _PARTS:
        values = [value for timing in timings if (value := getattr(timing, part)) is not None]
        cells = (statistics.median(values), min(values), max(values)) if values else ()
        print(f"{part:<16}" + "".join(f"{cell:9.2f}" for cell in cells))
    peak, above = measured.memory_peak_bytes, process.peak_bytes - process.memory_baseline_bytes
    print(f"answer: {timings[0].text!r}")
    print(f"memory: peak {peak / 1e6:.0f} MB, {above / 1e6:.0f} MB above the bare runtime")
    print(f"load: {measured.load_s:.2f} s; first answer: {process.first_ms:.1f} ms")
    energy = "none" if measured.energy_j is None else f"{measured.energy_j:.3g} J an answer"
    source = measured.energy_source.removeprefix("none: ")
    print(f"energy: {energy} ({source})")
    if process.trend is not None:
        print(f"sustained: p50 {process.trend - 1:+.1%} from the first minute (or half) to the last")
    print(f"verdict: {measured.verdict}, {measured.mode}{''.join('; ' + reason for reason in measured.reasons)}")


if __name__ == "__main__":
    main()
