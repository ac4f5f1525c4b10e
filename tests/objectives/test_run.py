import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware_profiles.messages import Measurement, Process, Reading, Timing
from objectives.records import Baseline, ScoredAnswer, trial_as_json, trial_from_json
from objectives.run import RunFolder
from objectives.settings import differences
from objectives.trial import Figure, StageCost, Trial
from spaces.errors import BadInput

SETTINGS: dict[str, Any] = {
    "name": "demo",
    "space_id": "abc",
    "devices": {"local": {"profile": "x86-cpu", "agent": "0.1.0"}},
    "task": {"path": "task.yaml", "name": "demo", "digests": {"search": "d1"}},
    "search": {"objectives": ["accuracy", "latency_p50_ms"], "budget": "200trials", "seed": 1},
}

number = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"), max_size=8)
figures = st.builds(
    Figure, value=st.none() | number, low=st.none() | number, high=st.none() | number, n=st.integers(0, 9)
)
trials = st.builds(
    Trial,
    number=st.integers(0, 10**6),
    candidate_id=text,
    candidate=st.dictionaries(text, st.booleans() | st.integers(-(2**60), 2**60) | number | text, max_size=5),
    state=st.sampled_from(["running", "complete", "infeasible", "failed", "pruned"]),
    reason=text,
    figures=st.dictionaries(text, figures, max_size=3),
    slices=st.dictionaries(text, st.dictionaries(text, figures, max_size=2), max_size=2),
    violated=st.lists(text, max_size=2).map(tuple),
    stages=st.lists(st.builds(StageCost, name=text, key=text, seconds=number, reused=st.booleans()), max_size=3).map(
        tuple
    ),
    seconds=st.dictionaries(text, number, max_size=3),
    labels=st.lists(text, max_size=2).map(tuple),
    started=number,
    finished=number,
)


@given(trials)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_trials_come_back_exactly(trial: Trial) -> None:
    back = trial_from_json(trial_as_json(trial))
    assert back == trial
    assert [type(value) for value in back.candidate.values()] == [type(value) for value in trial.candidate.values()]
    assert trial_as_json(back) == trial_as_json(trial)


def a_trial(n: int, **changed: Any) -> Trial:
    return Trial(number=n, candidate_id=f"c{n}", candidate={"model.path": "n"}, state="complete", **changed)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "demo", SETTINGS)


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError):
        trial_as_json(a_trial(1, figures={"accuracy": Figure(value=float("nan"))}))


def test_create_then_open(run: RunFolder) -> None:
    again = RunFolder.open(run.path)
    assert again.settings == run.settings
    assert again.name == "demo"
    assert os.listdir(run.path.parent) == ["demo"]  # noqa: PTH208


def test_trials_by_number_while_a_writer_is_at_work(run: RunFolder) -> None:
    for n in (11, 2, 100):
        run.write_trial(a_trial(n))
    (run.path / "trials" / ".00003.json.123-4.tmp").write_text('{"number": 3, "cand')
    assert [trial.number for trial in run.read_trials()] == [2, 11, 100]
    run.write_trial(a_trial(2, reason="again"))
    assert run.read_trial(2).reason == "again"
    with pytest.raises(BadInput, match="no trial 5"):
        run.read_trial(5)


def test_a_damaged_trial_is_named(run: RunFolder) -> None:
    (run.path / "trials" / "00007.json").write_text('{"number": 7, "candidate_id": 1}')
    with pytest.raises(BadInput, match=r"00007\.json: candidate_id"):
        run.read_trials()


def test_answers_measurements_baselines_come_back(run: RunFolder) -> None:
    answers = (
        ScoredAnswer(id="a", answer="line\nbreak \u2028 <b>", score=1.0),
        ScoredAnswer(id="b", answer="", score=0.0),
    )
    run.write_answers(3, answers)
    assert run.read_answers(3) == answers
    assert run.read_answers(4) == ()
    timing = Timing(
        id="a",
        text="x",
        preprocess_ms=0.1,
        vision_ms=None,
        prefill_ms=None,
        ttft_ms=1.0,
        e2e_ms=2.0,
        token_ms=(1.0, 2.0),
    )
    measured = Measurement(
        verdict="labelled",
        reasons=("CV 12 %",),
        mode="provisional",
        processes=(
            Process(
                load_s=1.0,
                first_ms=3.5,
                warmup_answers=2,
                timings=(timing,),
                memory_peak_bytes=10,
                memory_baseline_bytes=5,
                energy_j=None,
                idle_w=None,
                properties={"INFERENCE_PRECISION_HINT": "f32"},
            ),
        ),
        energy_source="no counter",
        trace=(Reading(t_s=0.5, temperature_c=40.0, flags=("throttled",)),),
    )
    run.write_measurement("ab", "pi", measured)
    assert run.read_measurement("ab", "pi") == measured
    assert run.read_measurement("ab", "local") is None
    baselines = (Baseline(name="blank_image", explained="x", accuracy=Figure(value=0.4, low=0.3, high=0.5, n=9)),)
    assert run.read_baselines() == ()
    run.write_baselines(baselines)
    assert run.read_baselines() == baselines


def test_every_use_of_holdout_is_logged_and_a_second_one_flagged(run: RunFolder) -> None:
    assert run.holdout_uses() == ()
    assert not run.log_holdout("pick knee", [4]).repeat
    assert run.log_holdout("pick accuracy", [5, 6]).repeat
    log = run.path / "holdout.jsonl"
    log.write_bytes(log.read_bytes() + b'{"purpose": "to')
    assert run.log_holdout("third", [7]).repeat
    uses = RunFolder.open(run.path).holdout_uses()
    assert [use.trials for use in uses] == [(4,), (5, 6), (), (7,)]
    assert [use.repeat for use in uses] == [False, True, False, True]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "--resume"),
        ({"space_id": "other"}, r"another space \(.*\); choose another name"),
        ({"task": {"name": "demo", "digests": {"search": "d2"}}}, r"another task \(digests\.search\)"),
        ({"search": {**SETTINGS["search"], "seed": 2}}, r"another set of search settings \(seed\)"),
        ({"search": {**SETTINGS["search"], "budget": "2h"}}, "--resume"),
    ],
)
def test_an_existing_run_is_not_overwritten(run: RunFolder, changed: dict[str, Any], words: str) -> None:
    run.write_trial(a_trial(1))
    with pytest.raises(BadInput, match=words):
        RunFolder.create(run.path, {**SETTINGS, **changed})
    assert len(RunFolder.open(run.path).read_trials()) == 1


def test_resume_takes_another_budget_but_no_other_space(run: RunFolder) -> None:
    more = {**SETTINGS, "search": {**SETTINGS["search"], "budget": "400trials"}}
    assert RunFolder.resume(run.path, more).settings["search"]["budget"] == "200trials"
    with pytest.raises(BadInput, match=r"another space \(.*\) and set of devices \(local, pi\)"):
        RunFolder.resume(run.path, {**SETTINGS, "space_id": "x", "devices": {"pi": {"profile": "x86-cpu"}}})
    assert differences(SETTINGS, {**SETTINGS, "task": {**SETTINGS["task"], "path": "/elsewhere"}}) == []


@pytest.mark.parametrize("asked", [{}, {"objectives": ["words"]}, {"limits": {"words": {"max": 9}}}])
def test_only_figures_that_a_search_asks_for_make_it_another(asked: dict[str, Any]) -> None:
    search = {**SETTINGS["search"], **asked}
    without = {**SETTINGS, "search": {**search, "figures": []}}
    beside = {**SETTINGS, "search": {**search, "figures": [{"name": "words", "direction": "min"}]}}
    expected = ["set of search settings (figures)"] if asked else []
    assert differences(without, beside) == differences(beside, without) == expected


def test_what_differs_is_named() -> None:
    knobs = {"model.path": ["a"], "pruning.ffn": {"low": 0, "high": 0.5}, "prompt.template": ["{question}"]}
    old = {**SETTINGS, "space_id": "1", "space": {"knobs": knobs}, "versions": {"torch": "1", "nncf": "2"}}
    other = {**knobs, "prompt.template": ["look : {question}"], "prompt.hint": [True]}
    new = {**old, "space_id": "2", "space": {"knobs": other}, "versions": {"torch": "1", "nncf": "3"}}
    assert differences(old, new) == ["space (prompt.template, prompt.hint)", "set of tool versions (nncf)"]
    assert differences(old, {**old, "space_id": "2"}) == ["space (conditions or versions of its axes)"]
    many = {**old, "versions": dict.fromkeys("abcdefg", "9")}
    assert differences({**old, "versions": {}}, many) == ["set of tool versions (a, b, c, d and 3 more)"]


def test_a_read_only_parent_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    parent = tmp_path / "closed"
    parent.mkdir(mode=0o555)
    with pytest.raises(BadInput, match="read-only"):
        RunFolder.create(parent / "demo", SETTINGS)
    with pytest.raises(BadInput, match="read-only"):
        RunFolder.create(parent / "runs" / "demo", SETTINGS)
    assert list(parent.iterdir()) == []


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "demo", SETTINGS)


def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        RunFolder.create(tmp_path / "a" / "b" / "demo", {**SETTINGS, "oops": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(BadInput, match="no run folder"):
        RunFolder.open(tmp_path)
    with pytest.raises(BadInput, match="no run is there already"):
        RunFolder.create(tmp_path, SETTINGS)
    (run.path / "run.json").write_text(json.dumps({"schema": "vlmfront.run/9"}))
    with pytest.raises(BadInput, match="schema"):
        RunFolder.open(run.path)
    (run.path / "run.json").write_text("{")
    with pytest.raises(BadInput, match=r"run\.json"):
        RunFolder.open(run.path)


def test_one_process_writes_a_run_at_a_time(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with run.writing(), pytest.raises(BadInput, match="another search"), RunFolder.open(tmp_path / "run").writing():
        pass
    with run.writing():
        pass


MEASUREMENT = Measurement(
    verdict="valid",
    reasons=(),
    mode="provisional",
    processes=(),
    energy_source="no counter",
)


def test_references_are_those_of_the_latest_reference_trial(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    assert run.read_references("pi") == ()
    for trial in (3, 3, 5, 5):
        run.log_reference(trial, "pi", MEASUREMENT)
    with (run.path / "measurements" / "references.jsonl").open("a") as stream:
        stream.write('{"trial": 7, "ti')
    assert [reference.trial for reference in run.read_references("pi")] == [5, 5]
    assert run.read_references("pi")[0].measurement == MEASUREMENT


def test_a_line_that_the_disk_refused_was_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    path = run.path / "holdout.jsonl"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*holdout.jsonl"):
            run.log_holdout("pick", [1])
    assert path.read_bytes() == b""
    assert run.log_holdout("pick", [1]).repeat is False
    path.write_bytes(path.read_bytes()[:-20])
    assert run.log_holdout("pick", [2]).repeat is True
    assert [use.purpose for use in run.holdout_uses()] == ["unknown (the record is damaged)", "pick"]


def test_what_a_killed_search_left_half_made_is_removed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.write_trial(Trial(number=3, candidate_id="x", candidate={}, state="failed", reason="y"))
    for name in ("bundles/3", "bundles/4", "bundles/.5.draft"):
        (run.path / name).mkdir()
    half = [run.path / ".run.json.1-1.tmp", run.path / "trials" / ".00004.json.1-1.tmp"]
    for path in half:
        path.touch()
    run.tidy()
    assert [path.name for path in (run.path / "bundles").iterdir()] == ["3"]
    assert not any(path.exists() for path in half)
    assert len(run.read_trials()) == 1
