import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from objectives import registry
from objectives.accuracy import wilson
from objectives.registry import OBJECTIVES, Outcome, agreement, available, described, load, metadata
from objectives.task import Task, load_task
from objectives.trial import Figure
from spaces import references
from spaces.errors import BadInput
from spaces.sample import Sample

PLUG_IN = """
from objectives.registry import Definition
from objectives.trial import Figure

def words(outcome):
    return Figure(value=sum(len(answer.split()) for answer in outcome.answers) or None)

GOOD = Definition(name="words", label="Words", unit="words", direction="min", relative=True, derive=words)
TAKEN = Definition(name="accuracy", label="Words", unit="", direction="min", relative=True, derive=words)
SIDEWAYS = Definition(name="words", label="Words", unit="", direction="left", relative=True, derive=words)
NAMELESS = Definition(name="W o", label="Words", unit="", direction="min", relative=True, derive=words)
BARE = object()
"""


def task(folder: Path, metric: object) -> Task:
    path = folder / "task.yaml"
    body = {"schema": "vlmfront.task/1", "name": "t", "metric": metric, "splits": {"search": "x.jsonl"}}
    path.write_text(json.dumps(body))
    return load_task(path)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "figures_for_a_test.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_nothing_known_is_no_figure(tmp_path: Path) -> None:
    empty = Outcome(task=task(tmp_path, "exact"))
    assert all(objective.figure(empty) == Figure(value=None) for objective in OBJECTIVES.values())


@pytest.mark.parametrize(
    ("metric", "answers", "told", "agree"),
    [
        ("exact", ["Red .", "blue", "", "two"], ["red", "green", "", "2"], [1, 0, 1, 0]),
        ("numeric", ["about 3", "4", "none", "none"], ["3.0", "5", "none", "4"], [1, 0, 1, 0]),
        ("contains", ["it is red", "blue", "red"], ["red", "", "it is red"], [1, 0, 0]),
        ("vqa_soft", ["red", "blue"], ["red", "red"], [1, 0]),
    ],
)
def test_agreement_by_hand(tmp_path: Path, metric: str, answers: list[str], told: list[str], agree: list[int]) -> None:
    samples = [Sample(id=str(n), image=Path("x"), question="?", answers=("7",)) for n in range(len(answers))]
    outcome = Outcome(
        task=task(tmp_path, metric),
        samples=samples,
        answers=answers,
        unmodified={str(n): text for n, text in enumerate(told)},
    )
    found = agreement(outcome)
    assert found.value == sum(agree) / len(agree)
    assert (found.low, found.high) == wilson(sum(agree), len(agree))


@pytest.mark.usefixtures("plug_in")
def test_a_reference_adds_an_objective_that_a_run_describes(tmp_path: Path) -> None:
    found = available(["figures_for_a_test:GOOD"])
    assert [*found][: len(OBJECTIVES)] == [*OBJECTIVES]
    samples = [Sample(id="1", image=Path("x"), question="?", answers=("7",))]
    outcome = Outcome(task=task(tmp_path, "exact"), samples=samples, answers=["one two"])
    assert found["words"].figure(outcome) == Figure(value=2)
    settings = json.loads(json.dumps({"search": {"figures": [metadata(found["words"])]}}))
    assert metadata(described(settings)["words"]) == metadata(found["words"])
    assert described(settings)["words"].figure(outcome) == Figure(value=None)
    assert described({}) == OBJECTIVES


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BARE", "lacks name, label, unit, direction, relative, figure"),
        ("SIDEWAYS", "direction: max or min is expected, not 'left'"),
        ("NAMELESS", "name: lower-case letters"),
        ("TAKEN", "two objectives are called 'accuracy'"),
        ("ABSENT", "module:attr"),
    ],
)
def test_what_is_no_objective_is_refused(name: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        available([f"figures_for_a_test:{name}"])


@pytest.mark.usefixtures("plug_in")
def test_installed_objectives_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("words", "figures_for_a_test:GOOD", registry.GROUP)]
    monkeypatch.setattr(references, "entry_points", lambda group: points if group == registry.GROUP else [])
    assert available()["words"] is load("figures_for_a_test:GOOD")
    assert available(["figures_for_a_test:GOOD"]) == available()


@pytest.mark.parametrize("figures", [[{"name": "x"}], [{**metadata(OBJECTIVES["accuracy"]), "direction": "up"}]])
def test_a_damaged_description_is_refused(figures: list[dict[str, object]]) -> None:
    with pytest.raises(BadInput, match=r"run\.json"):
        described({"search": {"figures": figures}})
