"""Exemplars from a task's files to a searched bundle."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.bundle import open_bundle
from objectives.run import RunFolder
from search.build import StageTree
from search.exemplars import exemplar_pool, pool_digests, refuse_missing_exemplars
from search.session import Prepared, prepare, search
from spaces.errors import BadInput
from spaces.exemplars import read_pool

SHOWN: dict[str, Any] = {
    "model": {"path": ["models/a"]},
    "prompt": {"exemplars": [0, 2], "exemplar_choice": ["fixed", "nearest"], "exemplar_order": ["forward", "reversed"]},
}


@pytest.fixture
def prepared() -> Iterator[Callable[[Path], Prepared]]:
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(
            closing(prepare(config, run=config.parent / "run", budget=None, resume=False))
        )


def test_a_search_shows_exemplars_of_the_train_split(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    config = project(
        {**SHOWN, "prompt": {"exemplars": [0, 2], "exemplar_choice": ["fixed", "nearest"]}}, workers=1, items=8
    )
    ready = prepared(config)
    assert ready.space.size == 3
    outcome = search(ready, lambda trial: None)
    assert outcome.ended == "exhausted"
    run = RunFolder.open(config.parent / "run")
    trials = run.read_trials()
    assert [trial.state for trial in trials] == ["complete"] * 3, [trial.reason for trial in trials]
    train = [json.loads(line) for line in (config.parent / "train.jsonl").read_text().splitlines()]
    for trial in trials:
        shots = trial.candidate["prompt.exemplars"]
        bundle = open_bundle(run.bundle(trial.number))
        assert bundle.manifest.prompt.exemplars == shots
        names = [stage.name for stage in trial.stages]
        assert names == ["model", "runtime", "prompt"][: 3 if shots else 2]
        assert trial.scoring["scoring"] == "in batches; batches agreed on 8 of 8"
        if shots:
            nearest = trial.candidate["prompt.exemplar_choice"] == "nearest"
            pool = read_pool(bundle.folder / "exemplars", nearest=nearest)
            questions = [(row["question"], row["answer"]) for row in train]
            assert [(row.question, row.answer) for row in pool.rows] == (questions if nearest else questions[:2])
            assert bundle.manifest.prompt.exemplar_field == "kind"


def keys(ready: Prepared, tree: StageTree | None = None) -> dict[tuple[object, ...], str]:
    found: dict[tuple[object, ...], str] = {}
    for candidate in ready.space.candidates():
        stages = (tree or ready.tree).plan(candidate)
        if stages[-1].axis == "prompt":
            values = candidate.values
            found[values["prompt.exemplar_choice"], values["prompt.exemplar_order"]] = stages[-1].key
    return found


def test_the_order_shares_an_artifact_and_the_choice_does_not(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    ready = prepared(project(SHOWN))
    found = keys(ready)
    assert len(found) == 4
    for choice in ("fixed", "nearest"):
        assert found[choice, "forward"] == found[choice, "reversed"]
    assert len(set(found.values())) == 2


def test_the_pool_is_in_the_key_with_its_groups(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    ready = prepared(project(SHOWN))
    pool = exemplar_pool(ready.space, ready.task, ready.splits)
    assert [row.group for row in pool["exemplars"]] == ["colour"] * 8
    other = {"exemplars": tuple(replace(row, group="") for row in pool["exemplars"])}
    digests = {"calibration": "c"}
    trees = [
        StageTree(ready.space, {**ready.splits, **each}, digests | pool_digests(each), 4, 0) for each in (pool, other)
    ]
    first, second = (keys(ready, tree) for tree in trees)
    assert not set(first.values()) & set(second.values())


def test_a_pool_has_at_most_64_rows_of_a_group(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    ready = prepared(project(SHOWN))
    row = ready.splits["train"][0]
    many = [replace(row, id=str(n), fields={"kind": ("a", "b")[n % 3 == 0]}) for n in range(300)]
    pool = exemplar_pool(ready.space, ready.task, {"train": many})["exemplars"]
    for group, start in (("a", [1, 2, 4]), ("b", [0, 3, 6])):
        ids = [int(row.id) for row in pool if row.group == group]
        assert ids[:3] == start
        assert len(ids) == 64
    plain = replace(ready.task, exemplar_field="")
    assert len(exemplar_pool(ready.space, plain, {"train": many})["exemplars"]) == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda splits: splits.pop("train"), r"task\.yaml: splits\.train: this space shows exemplars"),
        (lambda splits: splits.update(train=splits["train"][:1]), r"train\.jsonl: it has 1 rows with kind=colour"),
        (
            lambda splits: splits.update(search=[replace(splits["search"][0], fields={"kind": "size"})]),
            r"train\.jsonl: it has 0 rows with kind=size",
        ),
        (lambda splits: splits.update(search=[replace(splits["search"][0], fields={})]), "has no field 'kind'"),
        (
            lambda splits: splits.update(train=[replace(row, answers=("<image>",)) for row in splits["train"]]),
            r"row 'train-0': '<image>' stands for an image",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_before_work(
    project: Callable[..., Path],
    change: Callable[[dict[str, Any]], object],
    words: str,
    prepared: Callable[[Path], Prepared],
) -> None:
    ready = prepared(project(SHOWN))
    splits = dict(ready.splits)
    change(splits)
    with pytest.raises(BadInput, match=words):
        refuse_missing_exemplars(ready.space, ready.task, splits, {"search": splits["search"]})


def test_a_space_without_exemplars_needs_none(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    ready = prepared(project())
    assert exemplar_pool(ready.space, ready.task, ready.splits) == {}
    refuse_missing_exemplars(ready.space, ready.task, {}, {"search": ready.items})


def test_nearest_on_torch_is_refused_when_the_space_is_read(
    project: Callable[..., Path], prepared: Callable[[Path], Prepared]
) -> None:
    with pytest.raises(BadInput, match=r"prompt\.exemplar_choice: the runtime torch has no 'nearest'"):
        prepared(project({**SHOWN, "runtime": {"name": ["torch"]}}))
