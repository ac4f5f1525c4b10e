import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.axes import Value
from spaces.errors import BadInput
from spaces.knobs import Choices, Range, contains
from spaces.plugins import builtin
from spaces.reader import json_schema, load_space
from spaces.space import Space, grid

CAPABILITIES: dict[str, dict[str, tuple[Value, ...]]] = {
    "openvino": {"quantization.weights": ("fp16", "int8", "int4")},
    "torch": {"quantization.weights": ("fp16",), "visual_tokens.keep": (1.0,)},
}


def space_of(folder: Path, axes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


FULL = {
    "model": {"path": ["small", "large"]},
    "pruning": {"ffn": {"choices": [0, 0.5], "when": {"model.path": ["large"]}}},
    "tuning": {"method": ["none", "lora"], "steps": [50, 100]},
    "visual_tokens": {"keep": [1.0, 0.5], "method": ["norm", "random"]},
    "quantization": {"weights": ["fp16", "int8", "int4"], "group_size": [32, 64]},
    "prompt": {"hint": [False, True]},
}


def test_the_candidates_are_those_that_the_conditions_allow(tmp_path: Path) -> None:
    space = space_of(tmp_path, FULL)
    expected = set()
    for model, tuning, keep, weights, hint in itertools.product(
        ["small", "large"], ["none", "lora"], [1.0, 0.5], ["fp16", "int8", "int4"], [False, True]
    ):
        for ffn in [0, 0.5] if model == "large" else [None]:
            for steps in [50, 100] if tuning == "lora" else [None]:
                for method in ["norm", "random"] if keep < 1 else [None]:
                    for group in [32, 64] if weights == "int4" else [None]:
                        expected.add((model, ffn, tuning, steps, keep, method, weights, group, hint))
    names = (
        "model.path", "pruning.ffn", "tuning.method", "tuning.steps", "visual_tokens.keep", "visual_tokens.method",
        "quantization.weights", "quantization.group_size", "prompt.hint",
    )  # fmt: skip
    found = [tuple(candidate.values.get(name) for name in names) for candidate in space.candidates()]
    assert len(found) == len(set(found)) == space.size
    assert set(found) == expected


def test_every_candidate_of_a_space_is_accepted_by_it(tmp_path: Path) -> None:
    space = space_of(tmp_path, FULL)
    for candidate in space.candidates():
        assert space.candidate(candidate.values).id == candidate.id


def test_a_choice_has_every_knob_of_its_axis(tmp_path: Path) -> None:
    space = space_of(tmp_path, FULL)
    for candidate in itertools.islice(space.candidates(), 40):
        for axis in space.axes:
            assert set(space.choice(candidate, axis)) == set(axis.domains)


def test_as_it_comes_changes_nothing(tmp_path: Path) -> None:
    space = space_of(tmp_path, FULL)
    plain = space.as_it_comes("large")
    changing = [axis.name for axis in space.axes if axis.changes(space.choice(plain, axis))]
    assert changing == ["model", "runtime"]


def test_the_id_is_that_of_the_content_not_of_the_spelling(tmp_path: Path) -> None:
    other = dict(reversed(FULL.items())) | {
        "quantization": {"group_size": [64, 32], "weights": ["int4", "int8", "fp16"]}
    }
    assert space_of(tmp_path, FULL).id == space_of(tmp_path, other).id
    assert space_of(tmp_path, FULL).id != space_of(tmp_path, FULL | {"prompt": {"hint": [True]}}).id


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, ["axes"]),
        ({"pruning": {"ffn": [0]}}, ["model.path"]),
        ({"modle": {"path": ["a"]}}, ["modle", "did you mean model"]),
        ({"model": {"pth": ["a"]}}, ["pth", "did you mean path"]),
        ({"model": {"path": []}}, ["axes.model.path", "at least one"]),
        ({"model": {"path": ["a", "a"]}}, ["twice"]),
        ({"model": {"path": ["a"]}, "quantization": {"weights": ["int3"]}}, ["quantization.weights", "int3", "int4"]),
        ({"model": {"path": ["a"]}, "tuning": {"method": ["lorra"]}}, ["tuning.method", "lorra", "lora"]),
        ({"model": {"path": ["a"]}, "pruning": {"ffn": [1.5]}}, ["pruning.ffn", "1.5", "0.9"]),
        ({"model": {"path": ["a"]}, "pruning": {"ffn": [True]}}, ["pruning.ffn", "True"]),
        ({"model": {"path": ["a"]}, "pruning": {"ffn": {"low": 0.5, "high": 0.1}}}, ["below"]),
        ({"model": {"path": ["a"]}, "pruning": {"ffn": {"low": 0, "high": 0.5, "stp": 0.1}}}, ["stp", "step"]),
        ({"model": {"path": ["a"]}, "prompt": {"hint": {"low": 0, "high": 1}}}, ["choices"]),
        (
            {"model": {"path": ["a"]}, "prompt": {"hint": {"choices": [True], "when": {"model.size": ["a"]}}}},
            ["model.size"],
        ),
        (
            {"model": {"path": ["a"]}, "prompt": {"hint": {"choices": [True], "when": {"model.path": ["b"]}}}},
            ["never is"],
        ),
        ({"model": {"path": ["a"]}, "quantization": {"group_size": [32]}}, ["group_size", "quantization.weights"]),
        (
            {
                "model": {"path": {"choices": ["a"], "when": {"prompt.hint": [True]}}},
                "prompt": {"hint": {"choices": [True], "when": {"model.path": ["a"]}}},
            },
            ["circle"],
        ),
        (
            {"model": {"path": {"choices": ["a"], "when": {"prompt.hint": [True]}}}, "prompt": {"hint": [True]}},
            ["axes.model.path.when", "every candidate has a model"],
        ),
    ],
)
def test_a_bad_space_is_refused_in_one_sentence(tmp_path: Path, axes: Any, words: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        space_of(tmp_path, axes)
    message = str(refusal.value)
    assert "space.yaml" in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["", "[1, 2]", "schema: vlmfront.space/9", "schema: [", "a: b: c", "\x00", "&a [*a]"])
def test_what_is_no_space_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"space\.yaml"):
        load_space(path, builtin())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_no_text_gets_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "space.yaml"
    path.write_text("schema: vlmfront.space/1\naxes: " + text, encoding="utf-8", errors="replace")
    with pytest.raises(BadInput):
        load_space(path, builtin())


def test_a_bit_width_that_a_runtime_lacks_is_refused(tmp_path: Path) -> None:
    axes = {"model": {"path": "a"}, "quantization": {"weights": ["fp16", "int4"]}, "runtime": {"name": "torch"}}
    with pytest.raises(BadInput, match=r"quantization\.weights.*torch.*'int4'.*'fp16'"):
        space_of(tmp_path, axes).check(CAPABILITIES)


def test_a_condition_on_the_runtime_makes_it_legal(tmp_path: Path) -> None:
    weights = {"choices": ["fp16", "int4"], "when": {"runtime.name": ["openvino"]}}
    axes = {"model": {"path": "a"}, "quantization": {"weights": weights}, "runtime": {"name": ["torch", "openvino"]}}
    space = space_of(tmp_path, axes)
    space.check(CAPABILITIES)
    assert space.size == 3


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    axes = {"model": {"path": "a"}, "runtime": {"name": ["openvino"]}}
    with pytest.raises(BadInput, match="there are torch"):
        space_of(tmp_path, axes).check({"torch": {}})


@given(low=st.integers(0, 5), steps=st.integers(1, 9), step=st.sampled_from([0.1, 0.25, 1.0, 2.0]))
def test_a_stepped_range_holds_its_grid_and_nothing_between(low: int, steps: int, step: float) -> None:
    knob = Range(name="a.b", low=low, high=low + steps * step, step=step)
    values = grid(knob)
    assert len(values) == steps + 1 == knob.count
    assert all(contains(knob, value) for value in values)
    assert not contains(knob, low + step / 2)
    assert not contains(knob, low - step)


def test_a_condition_is_not_met_by_an_inactive_knob() -> None:
    knob = Choices(name="a.b", values=(1, 2), when={"c.d": (True,)})
    assert not knob.counts({})
    assert not knob.counts({"c.d": 1})
    assert knob.counts({"c.d": True})


def test_the_json_schema_names_every_knob() -> None:
    schema = json_schema(builtin())
    for axis in builtin():
        assert set(schema["properties"]["axes"]["properties"][axis.name]["properties"]) == set(axis.domains)


@pytest.mark.parametrize("named", [[0.0], [0.25, 0.5], [0.3]])
def test_the_count_of_a_stepped_range_with_conditions_is_that_of_the_listing(
    tmp_path: Path, named: list[float]
) -> None:
    pruning = {"ffn": {"low": 0.0, "high": 0.75, "step": 0.05 if named == [0.3] else 0.25}}
    hint = {"choices": [True, False], "when": {"pruning.ffn": named}}
    pruning["importance"] = ["weights", "activations"]  # type: ignore[assignment]
    space = space_of(tmp_path, {"model": {"path": ["a"]}, "pruning": pruning, "prompt": {"hint": hint}})
    candidates = [one.id for one in space.candidates()]
    assert space.count == len(candidates) == len(set(candidates))


def test_a_knob_that_many_shares_decide_is_walked_once_for_each_outcome(tmp_path: Path) -> None:
    shares = {name: {"low": 0.0, "high": 0.9, "step": 0.001} for name in ("ffn", "heads", "layers", "vision_ffn")}
    pruning = shares | {"importance": ["weights", "activations"]}
    space = space_of(tmp_path, {"model": {"path": ["a"]}, "pruning": pruning})
    found = list(space.together(["pruning.importance"]))
    assert sorted(map(str, found)) == sorted(
        map(str, [{}, *({"pruning.importance": i} for i in pruning["importance"])])
    )
    assert space.count == 2 * 901**4 - 1
