"""Conditions and candidates of random axes and spaces against a brute-force evaluation of what `Domain` promises."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from spaces.axes import Axis, Choice, Domain, Samples, Value, model
from spaces.canonical import canonical_json
from spaces.errors import BadInput
from spaces.knobs import Choices, Term, describe
from spaces.reader import load_space
from spaces.space import Space, grid

KNOBS = ("a", "b", "c", "d")
VALUES = (0, 1, 2)
Settings = tuple[dict[str, Domain], dict[str, Any]]


class Made:
    """An axis with the domains that hypothesis drew."""

    name = "made"
    version = 1
    tools: tuple[str, ...] = ()

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self.domains = domains

    def changes(self, choice: Choice) -> bool:
        return True

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        raise NotImplementedError


some_values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=2, unique=True).map(tuple)


@st.composite
def spaces(draw: st.DrawFn) -> Settings:
    """Domains whose conditions name earlier knobs, and a space file's entry that lists some of the knobs."""
    domains: dict[str, Domain] = {}
    listed: dict[str, Any] = {}
    for index, name in enumerate(KNOBS):
        others = st.dictionaries(st.sampled_from(KNOBS[:index]), some_values, max_size=2 if index else 0)
        domains[name] = Domain(
            kind="int",
            default=draw(st.sampled_from(VALUES)),
            low=0,
            high=2,
            help="a number",
            when=draw(others),
            unless=draw(others),
            unless_all=draw(others),
        )
        is_listed: bool = draw(st.booleans())
        if is_listed:
            entry: dict[str, Any] = {"choices": list(draw(some_values))}
            named = [other for other in KNOBS[:index] if other in listed]
            if named and draw(st.booleans()):
                other = draw(st.sampled_from(named))
                entry["when"] = {f"made.{other}": listed[other]["choices"][:1]}
            listed[name] = entry
    return domains, listed


def brute_force(domains: Mapping[str, Domain], listed: Mapping[str, Any]) -> set[str]:
    """Every product of listed values, cut down to what counts, as canonical JSON: straight from `Domain`'s words."""
    found = set()
    for values in itertools.product(*(listed[name]["choices"] for name in listed)):
        drawn = dict(zip(listed, values, strict=True))
        stands: dict[str, int] = {}
        counting: dict[str, int] = {}
        for name in KNOBS:
            domain = domains[name]
            counts = (
                name in listed
                and all(stands[other] in given for other, given in domain.when.items())
                and not any(stands[other] in given for other, given in domain.unless.items())
                and not (
                    domain.unless_all and all(stands[other] in given for other, given in domain.unless_all.items())
                )
                and all(
                    counting.get(other.removeprefix("made.")) in given
                    for other, given in listed[name].get("when", {}).items()
                )
            )
            stands[name] = drawn[name] if counts else int(domain.default)
            if counts:
                counting[name] = drawn[name]
        found.add(canonical_json({"model.path": "m", **{f"made.{name}": value for name, value in counting.items()}}))
    return found


def load(folder: Path, drawn: Settings) -> Space:
    domains, listed = drawn
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": {"model": {"path": "m"}, "made": listed}}))
    axes: list[Axis] = [model.AXIS, Made(domains)]
    return load_space(path, axes)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spaces())
def test_the_candidates_are_those_of_a_brute_force(tmp_path_factory: pytest.TempPathFactory, drawn: Settings) -> None:
    domains, listed = drawn
    assume(listed)
    try:
        space = load(tmp_path_factory.mktemp("knobs"), drawn)
    except BadInput as refusal:
        refused = str(refusal).split("axes.made.")[1].split(":")[0]
    else:
        refused = ""
    if refused:
        assert not any(f'"made.{refused}":' in found for found in brute_force(domains, listed))
        return
    candidates = list(space.candidates())
    assert {canonical_json(dict(one.values)) for one in candidates} == brute_force(domains, listed)
    assert len({one.id for one in candidates}) == len(candidates) == space.count == space.size
    for one in candidates:
        assert space.candidate(one.values).id == one.id
        assert space.candidate(dict(reversed(list(one.values.items())))).id == one.id
    for extra in (knob for knob in space.knobs if any(knob.name not in one.values for one in candidates)):
        lacking = next(one for one in candidates if extra.name not in one.values)
        with pytest.raises(BadInput, match="counts only when"):
            space.candidate({**lacking.values, extra.name: grid(extra)[0]})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spaces(), st.data())
def test_what_occurs_together_is_what_candidates_have(
    tmp_path_factory: pytest.TempPathFactory, drawn: Settings, data: st.DataObject
) -> None:
    try:
        space = load(tmp_path_factory.mktemp("together"), drawn)
    except BadInput:
        assume(False)
    names = data.draw(st.sets(st.sampled_from([knob.name for knob in space.knobs])))
    expected = {canonical_json({k: v for k, v in one.values.items() if k in names}) for one in space.candidates()}
    found = [canonical_json(one) for one in space.together(names)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def domain(default: Value, **conditions: Any) -> Domain:
    return Domain(kind="int", default=default, low=0, high=9, help="a number", **conditions)


@pytest.mark.parametrize(
    ("default", "unless", "counts"),
    [(0, (0,), False), (1, (0,), True)],
    ids=["the default excludes it", "the default lets it count"],
)
def test_a_knob_that_is_not_listed_stands_at_its_default(
    tmp_path: Path, default: int, unless: tuple[Value, ...], counts: bool
) -> None:
    domains = {"a": domain(default), "b": domain(0, unless={"a": unless})}
    if counts:
        assert load(tmp_path, (domains, {"b": [1, 2]})).count == 2
    else:
        with pytest.raises(BadInput, match=r"axes\.made\.b: it counts only with made\.a, which this space does not"):
            load(tmp_path, (domains, {"b": [1, 2]}))


def test_unless_all_counts_when_one_of_them_differs(tmp_path: Path) -> None:
    domains = {"a": domain(0), "b": domain(0), "c": domain(0, unless_all={"a": (0,), "b": (0,)})}
    space = load(tmp_path, (domains, {"a": [0, 1], "b": [0, 1], "c": [5, 6]}))
    assert space.count == 1 + 3 * 2
    only_b = load(tmp_path, (domains, {"b": [0, 1], "c": [5, 6]}))
    assert only_b.count == 1 + 2
    knob = only_b.knob("made.c")
    assert knob is not None
    assert describe(knob) == "made.b is not 0"
    with pytest.raises(BadInput, match=r"it counts only with made\.a or made\.b"):
        load(tmp_path, (domains, {"c": [5, 6]}))


def test_a_condition_of_the_file_adds_to_that_of_the_axis(tmp_path: Path) -> None:
    domains = {"a": domain(0), "b": domain(0, when={"a": (1,)})}
    entry = {"choices": [3, 4], "when": {"made.a": [2]}}
    space = load(tmp_path, (domains, {"a": [1, 2], "b": entry}))
    assert [dict(one.values) for one in space.candidates()] == [
        {"model.path": "m", "made.a": 1},
        {"model.path": "m", "made.a": 2},
    ]


def test_an_axis_condition_is_met_by_the_default_of_a_knob_that_does_not_count() -> None:
    term = Term(name="x.a", values=(1,), among=True, absent=True)
    knob = Choices(name="x.b", values=(1,), clauses=((term,),))
    assert knob.counts({})
    assert knob.counts({"x.a": 1})
    assert not knob.counts({"x.a": 2})
    assert not knob.counts({"x.a": True})


def test_a_space_of_any_size_is_counted_exactly(tmp_path: Path) -> None:
    names = [f"k{number}" for number in range(30)]
    domains = {name: domain(0) for name in names} | {"last": domain(0, unless_all=dict.fromkeys(names, (0,)))}
    space = load(tmp_path, (domains, {**{name: [0, 1] for name in names}, "last": [1, 2, 3]}))
    assert space.count == 1 + (2**30 - 1) * 3
    assert space.size is None


def some_orders(listed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for names in itertools.islice(itertools.permutations(listed), 4):
        yield {name: {**listed[name], "choices": list(reversed(listed[name]["choices"]))} for name in names}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spaces())
def test_the_spelling_of_a_space_changes_neither_its_id_nor_its_candidates(
    tmp_path_factory: pytest.TempPathFactory, drawn: Settings
) -> None:
    domains, listed = drawn
    folder = tmp_path_factory.mktemp("spelling")
    try:
        space = load(folder, drawn)
    except BadInput:
        assume(False)
    for other in some_orders(listed):
        again = load(folder, (domains, other))
        assert again.id == space.id
        assert {one.id for one in again.candidates()} == {one.id for one in space.candidates()}
