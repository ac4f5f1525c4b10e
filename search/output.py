"""How verbs answer: one JSON object for machines, text for people."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def say(values: dict[str, Any], as_json: bool, text: str) -> None:
    """Print ``values`` as JSON, or ``text`` made safe for a terminal."""
    from spaces.printable import printable

    print(json.dumps(values) if as_json else printable(text))
