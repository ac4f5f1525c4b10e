import json
import math
from pathlib import Path
from typing import Any

import pytest

from objectives.records import Baseline
from objectives.run import RunFolder
from objectives.trial import Figure, StageCost, Trial
from spaces.errors import BadInput

BASELINE = {"name": "blank_image", "explained": "x", "accuracy": {"value": 0.5}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {})


@pytest.mark.parametrize(
    "text",
    ["", '[{"name"', "{}", "3", "[3]", *(json.dumps([BASELINE | {"accuracy": a}]) for a in (1, {"value": math.nan}))],
)
def test_damaged_baselines_are_named(run: RunFolder, text: str) -> None:
    run.write_baselines([Baseline(name="blank_image", explained="x", accuracy=Figure(value=0.5))])
    assert len(run.read_baselines()) == 1
    (run.path / "baselines.json").write_text(text)
    with pytest.raises(BadInput, match=r"baselines\.json: .* is not as it should be"):
        run.read_baselines()


@pytest.mark.parametrize(
    ("field", "value"),
    [("figures.accuracy.low", 0.125), ("seconds.build", 0.25), ("stages.0.seconds", 0.375), ("started", 0.75)],
)
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_of_a_trial_that_is_none_is_named(run: RunFolder, field: str, value: float, number: str) -> None:
    trial = Trial(
        number=7,
        candidate_id="c",
        candidate={},
        state="complete",
        figures={"accuracy": Figure(value=0.5, low=0.125)},
        stages=(StageCost(name="model", key="k", seconds=0.375, reused=False),),
        seconds={"build": 0.25},
        started=0.75,
    )
    run.write_trial(trial)
    path = run.path / "trials" / "00007.json"
    path.write_text(path.read_text().replace(str(value), number))
    with pytest.raises(BadInput, match=rf"00007\.json: {field} "):
        run.read_trials()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"search": 3}, "search"),
        ({"search": None}, "search"),
        ({"search": {"objectives": [[]]}}, r"search\.objectives\.0"),
        ({"search": {"limits": {"size_mb": 3}}}, r"search\.limits\.size_mb"),
        ({"search": {"figures": 3}}, r"search\.figures"),
        ({"space": []}, "space"),
        ({"space": {"knobs": 3}}, r"space\.knobs"),
        ({"space": {"knobs": {"model.path": 3}}}, r"space\.knobs\.model\.path"),
        ({"task": "x"}, "task"),
        ({"task": {"digests": 3}}, r"task\.digests"),
        ({"store": 3}, "store"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(run: RunFolder, settings: dict[str, Any], field: str) -> None:
    (run.path / "run.json").write_text(json.dumps({**run.settings, **settings}))
    with pytest.raises(BadInput, match=rf"run\.json: {field}\S* is not as it should be"):
        RunFolder.open(run.path)
