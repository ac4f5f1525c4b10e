"""The device's own command, ``vlmfront-agent``. Standard library only: a device has no more than it must."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hardware_profiles.agent.measure import measure
from hardware_profiles.ask import check_hint, field_of
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Job, JobFailed, Measurement, Request
from spaces.errors import BadInput
from spaces.images import read_image

LEAST_ANSWERS = 11
_PARTS = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "e2e_ms", "inter_token_ms")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the measurement failed, 2 bad input, 130 interrupted."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except BadInput as error:
        _end(str(error), 2)
    except JobFailed as error:
        _end(*((error.reason, 2) if error.fault == "INVALID_INPUT" else (str(error), 1)))
    except KeyboardInterrupt:
        _end("interrupted", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    one.add_argument("--field", action="append", default=[], help="NAME=VALUE that hints or exemplars go by")
    one.add_argument("--json", action="store_true", help="print the raw measurement as one line of JSON")
    one.set_defaults(run=_measure)
    return parser


def _answers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < LEAST_ANSWERS:
        raise argparse.ArgumentTypeError(f"a whole number of at least {LEAST_ANSWERS} is expected, not {text!r}")
    return int(text)


def _measure(asked: argparse.Namespace) -> None:
    read_image(asked.image)
    fields = dict(field_of(text) for text in asked.field)
    check_hint(asked.bundle, open_bundle(asked.bundle).manifest.prompt, fields)
    request = Request(id="0", image=str(asked.image.resolve()), question=asked.question, fields=fields)
    job = Job(kind="measure", bundle=str(asked.bundle.resolve()), requests=(request,), min_answers=asked.answers)
    measured = measure(job)
    if asked.json:
        print(json.dumps(asdict(measured), separators=(",", ":"), allow_nan=False))
    else:
        _show(asked.bundle, measured)


def _end(message: str, code: int) -> None:
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
    peak, above = measured.memory_peak_bytes, measured.memory_peak_bytes - process.memory_baseline_bytes
    print(f"answer: {timings[0].text!r}")
    print(f"memory: peak {peak / 1e6:.0f} MB, {above / 1e6:.0f} MB above the bare runtime")
    print(f"load: {measured.load_s:.2f} s; first answer: {process.first_ms:.1f} ms")
    energy = "none" if measured.energy_j is None else f"{measured.energy_j:.3g} J an answer"
    print(f"energy: {energy} ({measured.energy_source})")
    print(f"verdict: {measured.verdict}, {measured.mode}{''.join('; ' + reason for reason in measured.reasons)}")


if __name__ == "__main__":
    main()
