"""What reports show beyond the measured figures: agreement, forgetting, cost, confusion, plug-ins, raced-out trials."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from objectives.registry import OBJECTIVES, metadata
from objectives.run import RunFolder
from objectives.trial import Figure, Trial
from reports.front import front, front_as_dict, front_of
from reports.html import report_html
from reports.pick import pick
from reports.tables import confusion_table
from reports.text import front_table, pick_text
from reports.words import floor_in_words
from search.lines import trial_line

WORDS = {"name": "words", "label": "Words <b>", "unit": "words", "direction": "min", "relative": True}
CONFUSION = {"ok": {"ok": 30, "defect": 4, "(unknown)": 1}, "defect": {"ok": 2, "defect": 13, "(unknown)": 0}}


def figure(value: float, half: float = 0.02) -> Figure:
    return Figure(value=value, low=value - half, high=value + half, n=50)


def trial(number: int, accuracy: float, ms: float, **more: Any) -> Trial:
    figures = {"accuracy": figure(accuracy), "latency_p50_ms": Figure(value=ms, low=ms, high=ms, n=11)}
    figures |= {"agreement": figure(0.91), "cost": figure(0.4 + number), "abstention": figure(more.pop("left", 0.0))}
    return Trial(
        number=number,
        candidate_id=str(number),
        candidate={"model.path": "m", "quantization.weights": "int8"},
        state=more.pop("state", "complete"),
        figures=figures | more.pop("figures", {}),
        **more,
    )


def settings(*objectives: str) -> dict[str, Any]:
    return {"name": "r", "search": {"objectives": list(objectives), "figures": [WORDS]}}


def raced(number: int) -> Trial:
    reached = Figure(value=0.4, low=0.2, high=0.6, n=24)
    return replace(
        trial(number, 0.99, 1.0, state="pruned", reason="behind trial 1, which is no worse in anything else"),
        figures={"accuracy": reached, "latency_p50_ms": Figure(value=1.0, n=11)},
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "run", settings("accuracy", "latency_p50_ms"))
    for one in (trial(0, 0.5, 4.0), trial(1, 0.9, 9.0, confusion=CONFUSION), raced(2)):
        made.write_trial(one)
    return made


def test_columns_are_those_that_trials_have(run: RunFolder) -> None:
    page = report_html(run)
    for words in ("Agreement", "Cost", "an item", "Agreement is how far", "Cost is the mean"):
        assert words in page
    for words in (">Abstention<", "Forgetting is what", ">Retention<"):
        assert words not in page
    run.write_trial(trial(3, 0.7, 7.0, left=0.25, figures={"words": Figure(value=3.0), "forgetting": figure(0.1)}))
    page = report_html(run)
    for words in (">Abstention<", "Forgetting is what", ">Forgetting<", "Words &lt;b&gt;"):
        assert words in page
    assert "Words <b>" not in page


def test_a_raced_out_trial_is_shown_and_on_no_front(run: RunFolder) -> None:
    page = report_html(run)
    assert 'class="state pruned">raced out<' in page
    assert "behind trial 1, which is no worse in anything else" in page
    assert "a test by betting" in page
    assert ">24 items<" in page
    assert "Raced out <b>1</b>" in page
    assert '<option value="pruned">raced out (1)</option>' in page
    found = front_of(run, run.read_trials(), "local")
    assert [one.number for one in found.trials] == [1, 0]
    assert 2 not in found.probabilities
    assert front_as_dict(found)["dominated"] == []
    line = trial_line(run.read_trial(2))
    assert "raced out" in line
    assert "accuracy 0.400 after 24 items, behind trial 1" in line


def test_the_confusion_of_the_knee_is_shown(run: RunFolder) -> None:
    page = report_html(run)
    assert "What was taken for what" not in report_html(RunFolder.create(run.path / "other", {"name": "x"}))
    assert "What was taken for what" in page
    table = confusion_table(CONFUSION)
    cells = [cell.split("</td>")[0].rpartition(">")[2] for cell in table.split("<td")[1:]]
    assert cells == ["ok", "30", "4", "1", "35", "defect", "2", "13", "0", "15"]


def test_a_plug_ins_figure_is_an_objective_without_the_plug_in(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "run", settings("accuracy", "words"))
    for number, (accuracy, words) in enumerate([(0.5, 2.0), (0.9, 6.0), (0.4, 7.0)]):
        made.write_trial(trial(number, accuracy, 5.0, figures={"words": Figure(value=words)}))
    trials = made.read_trials()
    found = front_of(made, trials, "local")
    assert [one.number for one in found.trials] == [1, 0]
    assert metadata(found.objectives[1]) == WORDS
    picked = pick(trials, {"words": ("<=", 3.0)}, "accuracy", ("accuracy", "words"), known=found.known)
    assert picked.trial.number == 0
    console = Console(width=200, record=True)
    console.print(front_table(found))
    console.print(pick_text(picked))
    printed = console.export_text()
    assert "Words <b>" in printed
    assert "Cost (an item)" in printed


def test_a_difference_of_costs_is_no_share() -> None:
    trials = [trial(0, 0.5, 4.0), trial(1, 0.9, 4.0)]
    found = pick(trials, {}, "accuracy", ("accuracy", "cost"))
    assert "cost 0.40 an item (−1)" in found.explanation
    assert floor_in_words(0.031, OBJECTIVES["cost"]) == "0.031 an item"
    assert [one.number for one in front(trials, ("accuracy", "cost")).trials] == [1, 0]
