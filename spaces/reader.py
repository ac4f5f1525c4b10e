"""Reads a space file: YAML in, a checked Space out; and the JSON Schema of such files, for editors."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from spaces.axes import Axis, Domain, Value
from spaces.errors import BadInput
from spaces.knobs import MOST_VALUES, Choices, Clause, Knob, Range, Term, contains, one_of
from spaces.plugins import available
from spaces.space import Space
from spaces.strict_yaml import MOST_CHARACTERS, parse_yaml

SCHEMA = "vlmfront.space/1"
_RANGE_KEYS = {"low", "high", "step", "log"}


def load_yaml(path: Path, schema: str) -> dict[str, Any]:
    """The mapping in a YAML file whose ``schema`` field is as expected.

    Raises:
        BadInput: no file, no YAML (with the line), no mapping, or another schema.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            loaded = parse_yaml(stream.read(MOST_CHARACTERS + 1))
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error}).") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{path}{line}: this is not YAML ({error.problem or error.context}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: this is not YAML ({error}).") from None
    if not isinstance(loaded, dict):
        raise BadInput(f"{path}: a mapping is expected that begins with 'schema: {schema}'.")
    if loaded.get("schema") != schema:
        raise BadInput(f"{path}: schema: expected {schema}, found {loaded.get('schema')!r}.")
    return loaded


def load_space(path: Path, axes: Sequence[Axis] | None = None) -> Space:
    """The space in a YAML file, over the given axes, or else the built-in, the installed and those it names itself.

    Raises:
        BadInput: one sentence that names the file, the field and the nearest name or value that would do.
    """
    document = load_yaml(path, SCHEMA)
    refuse_unknown(document, {"schema", "plugins", "axes"}, str(path))
    plugins = document.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(one, str) for one in plugins):
        raise BadInput(f"{path}: plugins: a list of references like my_package.my_module:AXIS is expected.")
    if axes is None:
        try:
            axes = available(plugins)
        except BadInput as error:
            raise BadInput(f"{path}: plugins: {error}") from None
    by_name = {axis.name: axis for axis in axes}
    given = document.get("axes")
    if not isinstance(given, dict) or not given:
        raise BadInput(f"{path}: axes: a mapping of axes to knobs is expected.")
    refuse_unknown(given, by_name, f"{path}: axes")
    knobs = [one for axis in axes if axis.name in given for one in _axis_knobs(given[axis.name], axis, str(path))]
    if not any(knob.name == "model.path" for knob in knobs):
        raise BadInput(f"{path}: axes.model.path: name at least one model folder.")
    ordered = _in_order(knobs, str(path))
    if any(knob.name == "model.path" and knob.when for knob in ordered):
        raise BadInput(f"{path}: axes.model.path.when: every candidate has a model; leave the condition out.")
    return Space(tuple(axes), ordered, path.parent, str(path), tuple(plugins))


def refuse_unknown(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, naming the nearest one.

    Raises:
        BadInput: for the first unknown key.
    """
    names = sorted(known)
    for key in given:
        if key not in names:
            near = sorted(difflib.get_close_matches(str(key), names, n=len(names)))
            best = max(near, key=lambda name: difflib.SequenceMatcher(None, name, str(key)).ratio(), default=None)
            cure = f"did you mean {best}?" if best else f"there are {', '.join(names)}."
            raise BadInput(f"{where}: {key!r} is unknown; {cure}")


def json_schema(axes: Sequence[Axis]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of space files over these axes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "type": "object",
        "required": ["schema", "axes"],
        "additionalProperties": False,
        "properties": {
            "schema": {"const": SCHEMA},
            "plugins": {
                "description": "axes to add, as module:attr",
                "type": "array",
                "items": {"type": "string"},
            },
            "axes": {
                "type": "object",
                "required": ["model"],
                "additionalProperties": False,
                "properties": {axis.name: _axis_schema(axis) for axis in axes},
            },
        },
    }


def _axis_schema(axis: Axis) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _knob_schema(domain) for name, domain in axis.domains.items()},
    }


def _knob_schema(domain: Domain) -> dict[str, Any]:
    by_kind: dict[str, dict[str, Any]] = {
        "choice": {"enum": list(domain.values)},
        "int": {"type": "integer", "minimum": domain.low, "maximum": domain.high},
        "float": {"type": "number", "minimum": domain.low, "maximum": domain.high},
        "flag": {"type": "boolean"},
        "text": {"type": "string"},
    }
    value = by_kind[domain.kind]
    values = {"type": "array", "items": value, "minItems": 1}
    when = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    forms: list[dict[str, Any]] = [
        value,
        values,
        {
            "type": "object",
            "required": ["choices"],
            "additionalProperties": False,
            "properties": {"choices": values, "when": when},
        },
    ]
    if domain.kind in ("int", "float"):
        number = {"type": "integer" if domain.kind == "int" else "number"}
        forms.append(
            {
                "type": "object",
                "required": ["low", "high"],
                "additionalProperties": False,
                "properties": {"low": number, "high": number, "step": number, "log": {"type": "boolean"}, "when": when},
            }
        )
    return {"description": domain.help, "oneOf": forms}


def _axis_knobs(given: Any, axis: Axis, source: str) -> list[Knob]:
    where = f"{source}: axes.{axis.name}"
    if not isinstance(given, dict):
        raise BadInput(f"{where}: a mapping of knobs is expected ({', '.join(axis.domains)}).")
    refuse_unknown(given, axis.domains, where)
    listed = [name for name in axis.domains if name in given]
    return [
        replace(
            _knob(given[name], f"{axis.name}.{name}", axis.domains[name], f"{where}.{name}"),
            clauses=_clauses(axis, name, listed, f"{where}.{name}"),
        )
        for name in listed
    ]


def _clauses(axis: Axis, knob: str, listed: Sequence[str], where: str) -> tuple[Clause, ...]:
    """What the axis says of when its knob counts, of knobs that the space lists: the others stand at their defaults.

    Raises:
        BadInput: the defaults of knobs that are not listed leave the knob without effect.
    """
    domain = axis.domains[knob]
    clauses = [
        *((_term(axis, name, values, among=True),) for name, values in domain.when.items()),
        *((_term(axis, name, values, among=False),) for name, values in domain.unless.items()),
        *([tuple(_term(axis, name, values, among=False) for name, values in domain.unless_all.items())]),
    ]
    kept = []
    for clause in clauses:
        absent = {term.name for term in clause} - {f"{axis.name}.{name}" for name in listed}
        if any(term.absent for term in clause if term.name in absent) or not clause:
            continue
        if all(term.name in absent for term in clause):
            others = " or ".join(term.name for term in clause)
            raise BadInput(f"{where}: it counts only with {others}, which this space does not list.")
        kept.append(tuple(term for term in clause if term.name not in absent))
    return tuple(kept)


def _term(axis: Axis, name: str, values: tuple[Value, ...], *, among: bool) -> Term:
    default = one_of(axis.domains[name].default, values)
    return Term(name=f"{axis.name}.{name}", values=tuple(values), among=among, absent=default is among)


def _knob(given: Any, name: str, domain: Domain, where: str) -> Knob:
    when: dict[str, tuple[Value, ...]] = {}
    if isinstance(given, dict):
        refuse_unknown(given, {"choices", "when"} | _RANGE_KEYS, where)
        when = _condition(given.get("when", {}), where)
        if "choices" not in given:
            return _range(given, name, domain, when, where)
        given = given["choices"]
    values = given if isinstance(given, list) else [given]
    if not values:
        raise BadInput(f"{where}: list at least one value.")
    for index, value in enumerate(values):
        _check_value(value, domain, where)
        if one_of(value, tuple(values[:index])):
            raise BadInput(f"{where}: {value!r} stands there twice.")
    return Choices(name=name, values=tuple(values), when=when)


def _range(given: dict[str, Any], name: str, domain: Domain, when: dict[str, tuple[Value, ...]], where: str) -> Range:
    if domain.kind not in ("int", "float"):
        raise BadInput(f"{where}: takes listed values (choices), not a range.")
    if "low" not in given or "high" not in given:
        raise BadInput(f"{where}: give 'choices', or 'low' and 'high'.")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    _check_value(low, domain, f"{where}.low")
    _check_value(high, domain, f"{where}.high")
    if not low < high:
        raise BadInput(f"{where}: low ({low}) must be below high ({high}).")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low):
        raise BadInput(f"{where}.step: a number above 0 and at most {high - low} is expected, not {step!r}.")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise BadInput(f"{where}.log: true or false; on a log scale low is above 0 and there is no step.")
    if domain.kind == "int" and step is not None and step != int(step):
        raise BadInput(f"{where}.step: a whole number is expected, not {step!r}.")
    if (step is not None or domain.kind == "int") and (high - low) / (step or 1) >= MOST_VALUES:
        raise BadInput(f"{where}: more than {MOST_VALUES:,} values; take a larger step or a narrower range.")
    return Range(name=name, low=low, high=high, step=step, log=log, integer=domain.kind == "int", when=when)


def _condition(given: Any, where: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(given, dict):
        raise BadInput(f"{where}.when: a mapping like {{model.path: [small]}} is expected.")
    condition = {str(name): tuple(values) if isinstance(values, list) else (values,) for name, values in given.items()}
    for name, values in condition.items():
        if not values:
            raise BadInput(f"{where}.when.{name}: list at least one value.")
    return condition


def _check_value(value: Any, domain: Domain, where: str) -> None:
    fits: dict[str, Callable[[], bool]] = {
        "choice": lambda: isinstance(value, bool | int | float | str) and one_of(value, domain.values),
        "int": lambda: type(value) is int and domain.low <= value <= domain.high,
        "float": lambda: type(value) in (int, float) and domain.low <= value <= domain.high,
        "flag": lambda: isinstance(value, bool),
        "text": lambda: isinstance(value, str) and bool(value.strip()),
    }
    if fits[domain.kind]():
        return
    wanted = {
        "choice": f"one of {', '.join(str(item) for item in domain.values)}",
        "int": f"a whole number from {domain.low:g} to {domain.high:g}",
        "float": f"a number from {domain.low:g} to {domain.high:g}",
        "flag": "true or false",
        "text": "a text",
    }[domain.kind]
    raise BadInput(f"{where}: {value!r} is not {wanted} ({domain.help}).")


def _in_order(knobs: list[Knob], source: str) -> tuple[Knob, ...]:
    """The knobs, each after those that its conditions name.

    Raises:
        BadInput: a condition names no knob of the space or a value that it never has, or conditions go in a circle.
    """
    by_name = {knob.name: knob for knob in knobs}
    for knob in knobs:
        for name, values in knob.when.items():
            where = f"{source}: axes.{knob.name}.when"
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, n=1)
                cure = f"; did you mean {near[0]}?" if near else "."
                raise BadInput(f"{where}: {name!r} is no knob of this space{cure}")
            for value in values:
                if not (isinstance(value, bool | int | float | str) and contains(by_name[name], value)):
                    raise BadInput(f"{where}: {name} never is {value!r} in this space.")
    try:
        order = list(TopologicalSorter({knob.name: sorted(knob.others) for knob in knobs}).static_order())
    except CycleError as error:
        raise BadInput(f"{source}: conditions go in a circle: {' -> '.join(error.args[1])}.") from None
    listed = [knob.name for knob in knobs]
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[other] for other in by_name[name].others), default=0)
    return tuple(sorted(knobs, key=lambda knob: (depth[knob.name], listed.index(knob.name))))
