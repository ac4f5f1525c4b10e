import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from objectives.run import RunFolder
from objectives.trial import Figure, Trial
from search.engine import settle
from search.journal import mend
from search.reopen import open_study
from search.study import NAME, Study
from spaces.errors import BadInput
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.space import Space

DIRECTIONS = ["maximize", "minimize"]
WHOLE = b'{"op_code":4,"worker_id":"w"}\n'


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "space.yaml"
    axes = {
        "model": {"path": ["a", "b"]},
        "quantization": {"weights": ["fp16", "int8", "int4"], "group_size": [32, 64]},
        "prompt": {"hint": [True, False]},
    }
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


def in_optuna(journal: Path) -> list[optuna.trial.FrozenTrial]:
    trials: list[optuna.trial.FrozenTrial] = optuna.load_study(
        study_name=NAME, storage=JournalStorage(JournalFileBackend(str(journal)))
    ).trials
    return trials


def test_every_candidate_is_asked_once_and_then_there_are_no_more(tmp_path: Path, space: Space) -> None:
    study = Study(tmp_path / "journal", space, DIRECTIONS, seed=0)
    seen = []
    while asked := study.ask():
        seen.append(asked.candidate.id)
        study.tell(asked.number, [len(seen) % 5, len(seen) % 3], {})
    assert sorted(seen) == sorted(candidate.id for candidate in space.candidates())


def test_what_was_told_is_what_optuna_reads(tmp_path: Path, space: Space) -> None:
    study = Study(tmp_path / "journal", space, DIRECTIONS, seed=0)
    first, second, third = study.ask(), study.ask(), study.ask()
    assert first is not None
    assert second is not None
    assert third is not None
    study.tell(first.number, [0.9, 12.0], {"memory_peak_mb.max": -0.5})
    study.tell(second.number, [0.8, 11.0], {"memory_peak_mb.max": 0.25})
    study.fail(third.number, "OOM: 3 GB of 2", final=True)
    trials = in_optuna(tmp_path / "journal")
    assert trials[0].values == [0.9, 12.0]
    assert trials[0].constraints == {"memory_peak_mb.max": -0.5}
    assert trials[second.number].constraints == {"memory_peak_mb.max": 0.25}
    assert trials[third.number].state is TrialState.FAIL
    assert trials[third.number].user_attrs["reason"] == "OOM: 3 GB of 2"


def test_a_reopened_study_knows_what_was_tried_and_what_was_left(tmp_path: Path, space: Space) -> None:
    study = Study(tmp_path / "journal", space, DIRECTIONS, seed=0)
    told, left = study.ask(), study.ask()
    assert told is not None
    assert left is not None
    study.tell(told.number, [0.5, 1.0], {})
    again = Study(tmp_path / "journal", space, DIRECTIONS, seed=0)
    assert [number for number, _ in again.interrupted] == [left.number]
    again.fail(left.number, "interrupted", final=False)
    assert again.again(left.candidate.values)
    asked = again.ask()
    assert asked is not None
    assert asked.candidate.id == left.candidate.id
    seen = {told.candidate.id, asked.candidate.id}
    while more := again.ask():
        assert more.candidate.id not in seen
        seen.add(more.candidate.id)
        again.tell(more.number, [0.5, 1.0], {})
    assert len(seen) == space.size


def test_a_study_with_other_objectives_is_refused(tmp_path: Path, space: Space) -> None:
    Study(tmp_path / "journal", space, DIRECTIONS, seed=0)
    with pytest.raises((BadInput, ValueError)):
        Study(tmp_path / "journal", space, ["minimize", "minimize"], seed=0)


def test_a_journal_torn_at_any_byte_opens_again(tmp_path: Path, space: Space) -> None:
    journal = tmp_path / "journal"
    study = Study(journal, space, DIRECTIONS, seed=0)
    for _ in range(3):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [0.5, 1.0], {})
    content = journal.read_bytes()
    last_line = content.rfind(b"\n", 0, -1) + 1
    for cut in range(last_line - 40, len(content), 7):
        journal.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        reopened = Study(journal, space, DIRECTIONS, seed=0)
        assert reopened.ask() is not None
        assert len(in_optuna(journal)) >= 3
        assert journal.read_bytes().count(b"\n") > whole


@given(st.lists(st.sampled_from([WHOLE, b'{"x":\n', WHOLE[:-1] + WHOLE]), max_size=6), st.binary(max_size=8))
def test_mending_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], tail: bytes
) -> None:
    journal = tmp_path_factory.mktemp("mend") / "journal"
    content = b"".join(lines) + tail.replace(b"\n", b".").replace(b"\r", b".")
    journal.write_bytes(content)
    mend(journal)
    assert journal.read_bytes() == b"".join(line for line in lines if line == WHOLE)
    assert journal.with_name("journal.torn").exists() == (journal.read_bytes() != content)


def test_a_line_torn_in_the_middle_is_survived(tmp_path: Path, space: Space) -> None:
    journal = tmp_path / "journal"
    study = Study(journal, space, DIRECTIONS, seed=0)
    for _ in range(2):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.number, [0.5, 1.0], {})
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:15] + lines[-1])
    reopened = Study(journal, space, DIRECTIONS, seed=0)
    assert reopened.ask() is not None


@settings(max_examples=5, deadline=None)
@given(
    keep=st.lists(st.sampled_from([1.0, 0.5, 0.25]), min_size=1, unique=True),
    weights=st.lists(st.sampled_from(["fp16", "int8", "int4"]), min_size=1, unique=True),
    tuning=st.lists(st.sampled_from(["none", "lora"]), min_size=1, unique=True),
    ffn=st.sampled_from([[0], {"low": 0.0, "high": 0.5}, {"low": 0.0, "high": 0.5, "step": 0.25}]),
    seed=st.integers(0, 99),
)
def test_only_legal_candidates_are_asked_and_none_twice(
    tmp_path_factory: pytest.TempPathFactory, keep: Any, weights: Any, tuning: Any, ffn: Any, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("legal")
    axes = {
        "model": {"path": ["a", "b"]},
        "pruning": {"ffn": ffn},
        "tuning": {"method": tuning, "steps": {"low": 10, "high": 100, "log": True}},
        "visual_tokens": {"keep": keep, "method": ["norm", "random"]},
        "quantization": {"weights": weights, "group_size": [32, 64]},
        "prompt": {"hint": {"choices": [True, False], "when": {"model.path": ["b"]}}},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    space = load_space(folder / "space.yaml", builtin())
    study = Study(folder / "journal", space, DIRECTIONS, seed=seed)
    seen = set()
    for number in range(14):
        asked = study.ask()
        if asked is None:
            assert space.size == number
            break
        values = asked.candidate.values
        assert space.candidate(values).id == asked.candidate.id
        assert ("quantization.group_size" in values) == (values["quantization.weights"] == "int4")
        assert ("visual_tokens.method" in values) == (values["visual_tokens.keep"] != 1)
        assert ("tuning.steps" in values) == (values["tuning.method"] == "lora")
        assert ("prompt.hint" in values) == (values["model.path"] == "b")
        assert asked.candidate.id not in seen
        seen.add(asked.candidate.id)
        study.tell(asked.number, [number % 5, number % 3], {})


def finished_run(tmp_path: Path, space: Space) -> tuple[RunFolder, Study]:
    """A run of four trials: told, interrupted, written but not told, told."""
    run = RunFolder.create(tmp_path / "run", {"name": "run"})
    study = Study(run.journal, space, DIRECTIONS, seed=0)
    for place in range(4):
        asked = study.ask()
        assert asked is not None
        if place == 1:
            continue
        figures = {"accuracy": Figure(value=place / 4, n=4), "latency_p50_ms": Figure(value=1.0 + place, n=4)}
        run.write_trial(
            Trial(
                number=asked.number,
                candidate_id=asked.candidate.id,
                candidate=dict(asked.candidate.values),
                state="complete",
                figures=figures,
            )
        )
        if place != 2:
            study.tell(asked.number, [place / 4, 1.0 + place], {})
    return run, study


def damaged(content: bytes, how: str) -> bytes:
    lines = content.splitlines(keepends=True)
    if how == "without its first line":
        return b"".join(lines[1:])
    if how == "a trial's first line torn":
        place = [number for number, line in enumerate(lines) if json.loads(line)["op_code"] == 4][1]
        return b"".join([*lines[:place], lines[place][:20] + b"\n", *lines[place + 1 :]])
    if how == "half a character":
        return content + '{"op_code":5,"worker_id":"w","reason":"\u00fc'.encode()[:-1]
    if how == "half a character in the middle":
        return content[: len(lines[0])] + '{"reason":"\u00fc'.encode()[:-1] + b"\n" + content[len(lines[0]) :]
    others = {"empty": b"", "garbage": bytes(range(256)) * 9, "other JSON": b'{"a":1}\n[]\n7\n', "nulls": bytes(4096)}
    return others[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "garbage",
        "other JSON",
        "nulls",
        "without its first line",
        "a trial's first line torn",
        "half a character",
        "half a character in the middle",
    ],
)
def test_no_finished_trial_is_lost_to_a_damaged_journal(how: str, tmp_path: Path, space: Space) -> None:
    run, _ = finished_run(tmp_path, space)
    run.journal.write_bytes(damaged(run.journal.read_bytes(), how))
    trials = run.read_trials()
    study = open_study(run, space, DIRECTIONS, seed=0)
    settle(run, study, ["accuracy", "latency_p50_ms"], {})
    told = in_optuna(run.journal)
    assert run.read_trials() == trials
    complete = [one for one in told if one.state is TrialState.COMPLETE]
    assert [one.number for one in complete] == [trial.number for trial in trials]
    assert [one.params for one in complete] == [dict(trial.candidate) for trial in trials]
    assert [one.values for one in complete] == [[0.0, 1.0], [0.5, 3.0], [0.75, 4.0]]
    assert TrialState.RUNNING not in {one.state for one in told}
    tried = {trial.candidate_id for trial in trials}
    asked = study.ask()
    assert asked is not None
    assert asked.candidate.id not in tried
    assert asked.number > trials[-1].number


def test_after_an_append_that_failed_nothing_is_appended(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    study = Study(journal, space, DIRECTIONS, seed=0)
    asked = study.ask()
    assert asked is not None
    before = journal.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            study.tell(asked.number, [0.5, 1.0], {})
    assert journal.read_bytes() == before
    with pytest.raises(OSError, match="No space left"):
        study.ask()
    assert journal.read_bytes() == before
    assert not journal.with_name("journal.lock").exists()
    reopened = Study(journal, space, DIRECTIONS, seed=0)
    assert [number for number, _ in reopened.interrupted] == [asked.number]


def test_the_lock_of_a_killed_search_does_not_hold_up_the_next(tmp_path: Path, space: Space) -> None:
    (tmp_path / "journal.lock").touch()
    begun = time.monotonic()
    assert Study(tmp_path / "journal", space, DIRECTIONS, seed=0).ask() is not None
    assert time.monotonic() - begun < 8
