"""The device's own command, ``vlmfront-agent``."""

import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hardware_profiles.ask import check_hint, field_of
from hardware_profiles.bundle import open_bundle
from hardware_profiles.client import run_job
from hardware_profiles.messages import Job, JobFailed, Measurement, Request
from spaces.errors import BadInput
from spaces.images import read_image

app = typer.Typer(
    help="What a device does for vlmfront: load bundles, answer, measure.", no_args_is_help=True, add_completion=False
)


@app.callback()
def _verbs() -> None:
    """Keep ``measure`` a verb of its own while it is the only one."""


@app.command(epilog="Example: vlmfront-agent measure deploy/ --image part.png --question 'is the guard open ?'")
def measure(
    bundle: Annotated[Path, typer.Argument(help="folder of a bundle")],
    image: Annotated[Path, typer.Option(help="image file to ask about")],
    question: Annotated[str, typer.Option(help="what to ask; the bundle's prompt goes around it")],
    answers: Annotated[int, typer.Option(min=11, help="timed answers after warm-up")] = 30,
    field: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a field that hints or exemplars go by")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the raw measurement as one line of JSON")] = False,
) -> None:
    """Measure a bundle on this machine: latency, its parts, memory."""
    read_image(image)
    fields = dict(field_of(text) for text in field or ())
    check_hint(bundle, open_bundle(bundle).manifest.prompt, fields)
    request = Request(id="0", image=str(image.resolve()), question=question, fields=fields)
    job = Job(kind="measure", bundle=str(bundle.resolve()), requests=(request,), min_answers=answers)
    measured = run_job(job)
    assert isinstance(measured, Measurement)
    if as_json:
        print(json.dumps(asdict(measured), separators=(",", ":"), allow_nan=False))
    else:
        _show(bundle, measured)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the measurement failed, 2 bad input, 130 interrupted."""
    try:
        app(standalone_mode=True)
    except BadInput as error:
        _end(str(error), 2)
    except JobFailed as error:
        _end(*((error.reason, 2) if error.fault == "INVALID_INPUT" else (str(error), 1)))
    except KeyboardInterrupt:
        _end("interrupted", 130)


def _end(message: str, code: int) -> None:
    print(f"vlmfront-agent: {message}", file=sys.stderr)
    sys.exit(code)


def _show(bundle: Path, measured: Measurement) -> None:
    console, timings = Console(), measured.timings
    table = Table(title=f"{bundle.name}: {len(timings)} answers, ms")
    for heading in ("part", "median", "least", "most"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    parts = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "e2e_ms", "inter_token_ms")
    rows = {part: [value for timing in timings if (value := getattr(timing, part)) is not None] for part in parts}
    for part, values in rows.items():
        cells = (statistics.median(values), min(values), max(values)) if values else ()
        table.add_row(part, *(f"{cell:.2f}" for cell in cells))
    console.print(table)
    peak, above = measured.memory_peak_bytes, measured.memory_peak_bytes - measured.memory_baseline_bytes
    console.print(f"answer: {timings[0].text!r}")
    console.print(f"memory: peak {peak / 1e6:.0f} MB, {above / 1e6:.0f} MB above the bare runtime")
    console.print(f"load: {measured.load_s:.2f} s; first answer: {measured.first_ms:.1f} ms")
    energy = "none" if measured.energy_j is None else f"{measured.energy_j:.3g} J an answer"
    console.print(f"energy: {energy} ({measured.energy_source})")
    console.print(f"verdict: {measured.verdict}, provisional{''.join('; ' + reason for reason in measured.reasons)}")


if __name__ == "__main__":
    main()
