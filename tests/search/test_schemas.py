import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cli import main
from search.config import FIELDS, load_config
from search.scaffold import scaffold
from search.schemas import KINDS, schema_of
from spaces.errors import BadInput

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_printed(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vlmfront", "schema", kind])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema_of(kind)))
    assert schema_of(kind)["$id"] == f"vlmfront.{kind}/1"


def test_another_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="task, space, search"):
        schema_of("model")


def test_the_search_schema_knows_every_field_that_is_read() -> None:
    assert set(schema_of("search")["properties"]) == set(FIELDS)


def files(kind: str, tmp_path: Path) -> list[Path]:
    scaffold(tmp_path / "new", (), None)
    return [*EXAMPLES.glob(f"*/{kind}.yaml"), tmp_path / "new" / f"{kind}.yaml"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_and_a_scaffold_meet_their_schema(kind: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for path in files(kind, tmp_path):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema_of(kind))


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value meets the few keywords that the search schema uses."""
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "array": list,
        "object": dict,
        "null": type(None),
        "number": (int, float),
        "boolean": bool,
    }
    if "const" in schema and value != schema["const"]:
        return False
    names = schema.get("type", list(kinds))
    if not any(isinstance(value, kinds[name]) for name in ([names] if isinstance(names, str) else names)):
        return False
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if isinstance(value, list):
        return len(value) <= schema.get("maxItems", 9) and all(fits(one, schema["items"]) for one in value)
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        closed = schema.get("additionalProperties") is False
        return set(schema.get("required", ())) <= set(value) <= (set(known) if closed else set(value)) and all(
            fits(one, known[name]) for name, one in value.items() if name in known
        )
    return True


def test_search_files_that_are_read_meet_the_schema_and_others_do_not(tmp_path: Path) -> None:
    for path in files("search", tmp_path):
        document = yaml.safe_load(path.read_text())
        load_config(path)
        assert fits(document, schema_of("search")), path
        for right in (
            {"racing": False, "store_limit": 20_000_000_000},
            {"store_limit": 1.5e9, "retention": {"task": "task.yaml", "items": None}},
        ):
            assert fits(document | right, schema_of("search")), right
            load_config(written(tmp_path / "right.yaml", document | right))
        for wrong in (
            {"seed": -1},
            {"workers": 0},
            {"objectives": ["a", "b", "c", "d"]},
            {"task": 3},
            {"other": 1},
            {"racing": "often"},
            {"retention": {"task": "task.yaml", "splt": "train"}},
            {"store_limit": None},
        ):
            assert not fits(document | wrong, schema_of("search")), wrong
            with pytest.raises(BadInput):
                load_config(written(tmp_path / "wrong.yaml", document | wrong))


def written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path
