import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from objectives.trial import DeviceResult, Figure, Trial
from reports.front import front
from reports.pick import HoldoutCheck, Limit, pick, pick_as_dict, with_holdout
from reports.text import front_table, pick_text
from spaces.errors import BadInput


def trial(number: int, accuracy: float, ms: float, memory: float = 100.0, size: float = 10.0) -> Trial:
    values = {"accuracy": accuracy, "latency_p50_ms": ms, "memory_peak_mb": memory, "size_mb": size}
    return Trial(
        number=number,
        candidate_id=str(number),
        candidate={"model.path": "family/[bold]m", "quantization.weights": "int8"},
        state="complete",
        figures={
            name: Figure(value=v, low=v * 0.99, high=min(1.0, v * 1.01) if name == "accuracy" else v * 1.01, n=512)
            for name, v in values.items()
        },
        slices={
            "kind": {"light": Figure(value=accuracy, n=64)},
            "wording": {"kept_out": Figure(value=accuracy - 0.2), "known": Figure(value=accuracy)},
        },
    )


TRIALS = [
    trial(0, 0.60, 2, memory=90, size=5),
    trial(1, 0.88, 4, memory=110, size=6),
    trial(2, 0.93, 20, memory=150, size=20),
    trial(3, 0.97, 45, memory=300, size=40),
    trial(4, 0.80, 30, memory=80, size=3),
]


@pytest.mark.parametrize(
    ("prefer", "expected"), [("knee", 1), ("accuracy", 3), ("latency", 0), ("memory", 4), ("size", 4)]
)
def test_preferences(prefer: str, expected: int) -> None:
    picked = pick(TRIALS, {}, prefer)
    assert picked.trial.number == expected
    assert f"Trial {expected}" in picked.explanation
    assert expected not in [other.number for other in picked.runners_up]


def test_pick_takes_the_floor_from_the_scores() -> None:
    """With the accuracies' wide intervals 0.93 and 0.97 are one; with the paired difference they are two."""
    wide = [
        replace(t, figures={**t.figures, "accuracy": replace(t.figures["accuracy"], low=0.5, high=1.0)}) for t in TRIALS
    ]
    same = {str(i): 1.0 for i in range(500)}
    assert 3 not in [t.number for t in front(wide).trials]
    assert pick(wide, {}, "accuracy", scores=lambda _: same).trial.number == 3


def test_limits_hold_and_their_cost_is_told() -> None:
    picked = pick(TRIALS, {"latency_p50_ms": ("<=", 25)}, "accuracy")
    assert picked.trial.number == 2
    assert "Without the limit it would be trial 3: accuracy 0.970 (+4.0 points), latency p50 45.0 ms (+125 %)" in (
        picked.explanation
    )
    both: dict[str, Limit] = {"accuracy": (">=", 0.9), "memory_peak_mb": ("<=", 200)}
    assert pick(TRIALS, both, "latency").trial.number == 2
    assert [t.number for t in pick(TRIALS, both, "latency").runners_up] == []


def test_a_limit_on_another_figure_may_choose_a_trial_off_the_front() -> None:
    assert 4 not in [t.number for t in front(TRIALS).trials]
    assert pick(TRIALS, {"size_mb": ("<=", 4)}).trial.number == 4


def test_a_limit_met_exactly_counts() -> None:
    assert pick(TRIALS, {"accuracy": (">=", 0.97), "latency_p50_ms": ("<=", 45)}).trial.number == 3


def test_impossible_limits_name_the_nearest_trial() -> None:
    with pytest.raises(BadInput) as caught:
        pick(TRIALS, {"accuracy": (">=", 0.95), "latency_p50_ms": ("<=", 19)})
    message = str(caught.value)
    assert "no trial keeps to accuracy>=0.95 and latency_p50_ms<=19" in message
    assert "nearest is trial 2: accuracy is 0.930, 0.020 off, latency_p50_ms is 20.0 ms, 1.00 ms off" in message


@pytest.mark.parametrize(
    ("limits", "prefer", "words"),
    [
        ({}, "energy", "energy was not measured"),
        ({}, "accuarcy", "did you mean accuracy"),
        ({"acuracy": (">=", 0.5)}, "knee", "did you mean accuracy"),
        ({"token_p50_ms": ("<=", 5)}, "knee", "token_p50_ms was not measured"),
        ({"latency": ("<=", 5)}, "knee", "did you mean latency_p50_ms"),
    ],
)
def test_bad_requests(limits: dict[str, Limit], prefer: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        pick(TRIALS, limits, prefer)


def test_nothing_complete() -> None:
    with pytest.raises(BadInput, match="no complete trial"):
        pick([], {})


def check(value: float, repeat: bool = False) -> HoldoutCheck:
    figure = Figure(value=value, low=value - 0.02, high=value + 0.02, n=1024)
    return HoldoutCheck(accuracy=figure, slices={"kind": {"light": figure}}, repeat=repeat)


@pytest.mark.parametrize(
    ("value", "repeat", "words"),
    [
        (0.876, False, "0.4 points below its 0.880 in the search (within"),
        (0.80, False, "8.0 points below its 0.880 in the search (outside"),
        (0.885, True, "used before in this run"),
    ],
)
def test_holdout_is_compared_with_the_search(value: float, repeat: bool, words: str) -> None:
    picked = with_holdout(pick(TRIALS, {}), check(value, repeat))
    assert words in picked.explanation
    assert ("used before" in picked.explanation) == repeat


def test_as_dict_is_json() -> None:
    found = pick_as_dict(with_holdout(pick(TRIALS, {"accuracy": (">=", 0.7)}), check(0.9)))
    assert json.loads(json.dumps(found)) == found
    assert found["limits"] == {"accuracy": ">=0.7"}
    assert found["holdout"]["accuracy"]["n"] == 1024


def rendered(thing: Any) -> str:
    console = Console(width=150, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


def test_terminal_tables_show_text_as_it_is() -> None:
    text = rendered(front_table(front(TRIALS)))
    assert "[bold]m" in text
    assert "4 of 5 complete trials" in text
    assert "No trial is complete" in rendered(front_table(front([])))
    narrow = Console(width=80)
    with narrow.capture() as captured:
        narrow.print(front_table(front(TRIALS)))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("int8")[-1].strip() for line in lines if "kept out" in line] == [
        f"kept out {t.slices['wording']['kept_out'].value:.2f} · known {t.slices['wording']['known'].value:.2f}"
        for t in front(TRIALS).trials
    ]
    assert "…" not in captured.get()
    text = rendered(pick_text(with_holdout(pick(TRIALS, {}), check(0.9))))
    for word in ("Trial 1", "[bold]m", "Holdout", "[0.880, 0.920]", "kind: light", "knee"):
        assert word in text


def test_a_share_above_one_is_taken_for_a_percentage_and_refused() -> None:
    with pytest.raises(BadInput, match=r"accuracy is a share from 0 to 1; 90 % is 0\.9"):
        pick(TRIALS, {"accuracy": (">=", 90.0)})


def test_what_was_predicted_says_so() -> None:
    plain = rendered(front_table(front(TRIALS))) + rendered(pick_text(pick(TRIALS, {})))
    assert "predicted" not in plain
    foretold = [replace(one, devices={"pi": DeviceResult(state="predicted")}) for one in TRIALS]
    picked = pick(foretold, {})
    assert "latency p50 4.00 ms [3.96, 4.04] (predicted, not measured)" in picked.explanation
    assert "accuracy 0.880 [0.871, 0.889]," in picked.explanation
    lines = [line for line in rendered(pick_text(picked)).splitlines() if "not measured  " in line]
    assert [line.split("(")[0].strip() for line in lines] == ["Latency p50", "Peak memory"]
    assert "Latency p50 and Peak memory are predicted, not measured." in rendered(front_table(front(foretold)))
