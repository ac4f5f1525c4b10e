"""What every objective has to keep to, built in or not."""

import json
import math
from pathlib import Path
from types import ModuleType

import pytest

from objectives.registry import OBJECTIVES, Objective, Outcome, available, flaw
from objectives.task import Task, load_task
from spaces.errors import BadInput
from spaces.sample import Sample

PLUGGED = ("answer_length",)


@pytest.fixture(params=[*OBJECTIVES, *PLUGGED])
def objective(request: pytest.FixtureRequest, plugin: ModuleType) -> Objective:
    return available()[request.param]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.yaml"
    path.write_text("schema: vlmfront.task/1\nname: colours\nmetric: exact\nsplits: {search: search.jsonl}\n")
    return load_task(path)


@pytest.fixture
def outcome(task: Task, tiny_images: list[Path]) -> Outcome:
    samples = [
        Sample(id=str(number), image=path, question="what ?", answers=("red",))
        for number, path in enumerate(tiny_images)
    ]
    answers = ["red", "blue", "unknown", "red", "green", "red", "red", ""]
    scores = [task.score(answer, sample) for answer, sample in zip(answers, samples, strict=True)]
    return Outcome(task=task, samples=samples, answers=answers, scores=scores, size_bytes=5_000_000)


def test_the_plug_in_is_among_them(plugin: ModuleType) -> None:
    assert set(available()) == {*OBJECTIVES, *PLUGGED}


def test_it_describes_itself(objective: Objective) -> None:
    assert not flaw(objective)
    assert json.loads(json.dumps([objective.name, objective.label, objective.unit])) == [
        objective.name,
        objective.label,
        objective.unit,
    ]


def test_without_data_it_has_no_value(objective: Objective, task: Task) -> None:
    assert objective.figure(Outcome(task=task)).value is None


def test_its_value_is_finite_within_its_interval_and_repeats(objective: Objective, outcome: Outcome) -> None:
    figure = objective.figure(outcome)
    assert figure == objective.figure(outcome)
    if figure.value is not None:
        assert math.isfinite(figure.value)
        assert figure.low is None or figure.low <= figure.value
        assert figure.high is None or figure.value <= figure.high
        assert figure.value > 0 or not objective.relative


def test_the_plugged_figure_is_the_mean_length(outcome: Outcome, plugin: ModuleType) -> None:
    figure = available()["answer_length"].figure(outcome)
    assert figure.value == sum(map(len, outcome.answers)) / len(outcome.answers)


@pytest.mark.parametrize("reference", ["nowhere:X", "json:dumps", "objectives.registry:OBJECTIVES", "accuracy"])
def test_what_is_no_objective_is_refused(reference: str) -> None:
    with pytest.raises(BadInput):
        available([reference])
