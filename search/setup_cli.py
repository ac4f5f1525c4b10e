"""The verbs that come before a search: scaffold its files, check the machine, print schemas."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from search.output import Json, say

setup_app = typer.Typer()


@setup_app.command("init", epilog="Example: vlmfront init parts --model models/small --rows rows.jsonl")
def init_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is not there.")],
    model: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="A model folder in LLaVA layout; may be given again.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="Rows (JSONL, .csv, a saved dataset): image, question, answer, more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write task.yaml, space.yaml and search.yaml with comments; with --model and --rows they are ready to search."""
    from search.scaffold import scaffold

    done = scaffold(folder, tuple(model or ()), rows)
    found = {"folder": str(folder), "files": [str(path) for path in done.files], "splits": dict(done.splits)}
    say(found | {"todo": list(done.todo)}, as_json, f"Wrote {', '.join(path.name for path in done.files)} to {folder}.")
    if as_json:
        return
    if done.splits:
        counts = ", ".join(f"{split} {count:,}" for split, count in done.splits.items())
        say({}, False, f"Rows by split, no image in two of them: {counts}.")
    for todo in done.todo:
        say({}, False, f"To do: {todo}")
    space, task, search = (shlex.quote(str(folder / f"{name}.yaml")) for name in ("space", "task", "search"))
    say({}, False, f"Next: vlmfront space check {space} --task {task}")
    say({}, False, f"Then: vlmfront search {search}")


@setup_app.command("doctor", epilog="Example: vlmfront doctor    For scripts: vlmfront doctor --json")
def doctor_command(
    store: Annotated[
        Path | None, typer.Option(help="Folder of the artifacts; if not given, the default of search.yaml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what works on this machine, with the cure for what does not. Exit code 1 if a search cannot work."""
    from dataclasses import asdict

    from search.doctor import examine

    if as_json:
        findings = list(examine(store))
        able = all(finding.state != "fail" for finding in findings)
        print(json.dumps({"able": able, "findings": [asdict(finding) for finding in findings]}))
    else:
        from search.doctor import show

        able = show(examine(store))
    raise typer.Exit(0 if able else 1)


@setup_app.command("schema", epilog="Example: vlmfront schema task > task.schema.json")
def schema_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="task, space or search.")],
) -> None:
    """Print the JSON Schema of task, space or search files, for editors."""
    from search.schemas import schema_of

    print(json.dumps(schema_of(kind), indent=2))
