"""The command line. Verbs import what they need when they are called: `run` works without what a search needs."""

import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from search.command import lacking
from search.device_cli import device_app
from search.output import Json, say
from search.setup_cli import setup_app
from search.space_cli import space_app

ROOMS = ("spaces", "hardware_profiles", "objectives", "reports", "search")
_UNNAMED = "the disk of the run, the store or the output"

app = typer.Typer(
    name="vlmfront",
    help="Find the Pareto front of deployable vision-language models for your task and your device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(space_app, name="space")
app.add_typer(device_app, name="device")
app.add_typer(setup_app)

Run = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]


@app.command("search", epilog="Example: vlmfront search search.yaml --budget 2h    Go on after Ctrl-C: add --resume")
def search_command(
    config: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    budget: Annotated[str | None, typer.Option(help="90s, 5m or 2h from now, or 200trials of the run in all.")] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Search for the front and write the report."""
    from search.budget import parse_budget
    from search.lines import waiting_line
    from search.session import prepare
    from search.show import run_search

    def says(device: str, why: str) -> None:
        print(waiting_line(device, why), file=sys.stderr)

    limit = parse_budget(budget) if budget else None
    try:
        prepared = prepare(config, run=run, budget=limit, resume=resume, says=says)
    except KeyboardInterrupt:  # typer would end without a word
        _leave("interrupted before the search began: nothing was done, and the same command starts it.", 130)
    raise typer.Exit(run_search(prepared, as_json=as_json))


@app.command("report", epilog="Example: vlmfront report runs/inspection --open")
def report_command(
    run: Run,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    section: Annotated[list[str] | None, typer.Option(help="module:attr of a section to add; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Write RUN/report.html, one file that needs no network."""
    from objectives.run import RunFolder
    from reports.html import write_report

    path = write_report(RunFolder.open(run), section or ())
    say({"report": str(path)}, as_json, str(path))
    if open_it:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


@app.command(
    "pick",
    epilog="Example: vlmfront pick runs/inspection --min accuracy=0.9 --max latency_p50_ms=50 --prefer latency",
)
def pick_command(
    run: Run,
    least: Annotated[list[str] | None, typer.Option("--min", help="FIGURE=VALUE that it must reach.")] = None,
    most: Annotated[list[str] | None, typer.Option("--max", help="FIGURE=VALUE that it must not exceed.")] = None,
    prefer: Annotated[
        str, typer.Option(help="knee, accuracy, latency, memory, size or energy.", metavar="WHAT")
    ] = "knee",
    device: Annotated[str | None, typer.Option(help="Whose front, where the run has several devices.")] = None,
    as_json: Json = False,
) -> None:
    """Choose one configuration from the front and score it on the holdout split."""
    from search.show import pick_and_rescore

    pick_and_rescore(run, _limits(least, "--min"), _limits(most, "--max"), prefer, device, as_json=as_json)


@app.command("export", epilog="Example: vlmfront export runs/inspection 12 deploy/")
def export_command(
    run: Run,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    as_json: Json = False,
) -> None:
    """Write a trial's bundle, verified file by file."""
    from objectives.run import RunFolder
    from reports.export import export
    from search.room import bundle_of

    opened = RunFolder.open(run)
    state = opened.read_trial(trial).state
    if state != "complete":
        print(f"vlmfront: note that trial {trial} is {state}, so no front has it.", file=sys.stderr)
    bundle_of(opened, trial)
    bundle = export(opened, trial, out)
    prompt, count = bundle.manifest.prompt, len(bundle.manifest.files)
    field = f" --field {prompt.hint_field}={next(iter(prompt.hints))}" if prompt.hints else ""
    if prompt.exemplar_field and not field.startswith(f" --field {prompt.exemplar_field}="):
        field += f" --field {prompt.exemplar_field}=VALUE"
    say(
        {"bundle": str(out), "files": count, "size_bytes": bundle.size_bytes},
        as_json,
        f"{out}: {count} files, verified. Ask it: vlmfront run {out} --image FILE --question TEXT{field}",
    )


@app.command("run", epilog="Example: vlmfront run deploy/ --image part.png --question 'is the guard open ?'")
def run_command(
    bundle: Annotated[Path, typer.Argument(help="An exported bundle.")],
    image: Annotated[Path, typer.Option(help="The image file.")],
    question: Annotated[str, typer.Option(help="The question, without prompt: the bundle has its own.")],
    field: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of a row field that hints or exemplars go by: kind=light. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a bundle about an image. Needs the bundle's runtime and vlmfront's extra `host`: no torch, no optuna."""
    from hardware_profiles.ask import ask, field_of

    answer = ask(bundle, image, question, dict(field_of(text) for text in field or ()))
    say({"answer": answer.text, "first_answer_ms": answer.e2e_ms}, as_json, answer.text)


def main() -> None:
    """The console command. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted (resumable)."""
    clash = foreign_room()
    if clash:
        _leave(clash, 1)
    from hardware_profiles.messages import JobFailed
    from spaces.errors import BadInput

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except BadInput as error:
        _leave(str(error), 2)
    except JobFailed as error:
        _leave(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted", 130)
    except ImportError as error:
        _leave(lacking(error.name, sys.argv[1:]), 1)
    except OSError as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what the disk refused of the output
        _leave(f"{error.filename or _UNNAMED}: {error.strerror or error}; nothing that was finished is lost.", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if message := error.format_message():
            _leave(f"{message} Try --help.", 2)
        sys.exit(2)


def foreign_room(locate: Callable[[str], str | None] | None = None) -> str | None:
    """A sentence about another package that stands where one of our five rooms should; null if all is well.

    Hugging Face, for one, has a package called ``spaces``. ``locate`` gives the folder that a package is imported from.
    """
    home = str(Path(__file__).resolve().parent.parent)
    for room in ROOMS:
        found = (locate or _location)(room)
        if found != home:
            return (
                f"another package called {room!r} ({found or 'not found'}) stands in the way of vlmfront's own: "
                "install vlmfront in an environment of its own (uv tool install, pipx, or the Makefile's .venv)"
            )
    try:
        metadata.version("spaces")
    except metadata.PackageNotFoundError:
        return None
    return (
        "the distribution 'spaces' (Hugging Face) is installed over vlmfront's own package of that name: "
        "install vlmfront in an environment of its own (uv tool install, pipx, or the Makefile's .venv)"
    )


def _location(room: str) -> str | None:
    spec = util.find_spec(room)
    return str(Path(spec.origin).resolve().parent.parent) if spec and spec.origin else None


def _limits(given: list[str] | None, option: str) -> dict[str, float]:
    from spaces.errors import BadInput

    limits = {}
    for text in given or ():
        name, value = _pair(text, option)
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = math.nan
        if not math.isfinite(limits[name]):
            raise BadInput(f"{option} {text}: {value!r} is no number; write it without a unit.")
    return limits


def _pair(text: str, option: str) -> tuple[str, str]:
    from spaces.errors import BadInput

    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise BadInput(f"{option} {text}: write NAME=VALUE.")
    return name, value


def _leave(message: str, code: int) -> NoReturn:
    from spaces.printable import printable

    print(f"vlmfront: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
