"""What a run keeps in the store and what it gives back, and searches whose store is damaged or shared."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware_profiles.bundle import MANIFEST, Execution, open_bundle, seal
from hardware_profiles.eviction import pins
from hardware_profiles.store import Entry, Store
from objectives.run import RunFolder
from objectives.trial import Figure, StageCost, Trial
from search.config import load_config
from search.room import bundle_of, make_room, pin_front
from spaces.errors import BadInput
from spaces.prompting import Prompt
from tests.faults.points import AXES, TRIALS, check_store, check_whole, points


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("50GB", 50 * 10**9),
        ("1.5 tb", 15 * 10**11),
        ("10kB", 10_000),
        ("200mb", 200 * 10**6),
        (4096, 4096),
        ("4096", 4096),
    ],
)
def test_sizes_of_a_store(given: object, size: int, tmp_path: Path) -> None:
    assert load_config(_search_file(tmp_path, f"store_limit: {given}")).store_limit == size


@pytest.mark.parametrize("given", ["plenty", "0", "-1GB", "true", "20 GiB", "[1]", "1e3GB", ".inf", "''", "0.1"])
def test_a_size_without_sense_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"search\.yaml: store_limit: a size like 20GB is expected"):
        load_config(_search_file(tmp_path, f"store_limit: {given}"))


def test_the_limit_when_nothing_is_said(tmp_path: Path) -> None:
    assert load_config(_search_file(tmp_path, "seed: 1")).store_limit == 50 * 10**9


def _search_file(folder: Path, line: str) -> Path:
    path = folder / "search.yaml"
    path.write_text(f"schema: vlmfront.search/1\nname: x\ntask: t.yaml\nspace: s.yaml\n{line}\n")
    return path


def _artifact(store: Store, key: str) -> Entry:
    folder = store.root.parent / "given" / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.txt").write_bytes(key.encode() * 500)
    return store.put(key, folder, stage="runtime", seconds=1, checks={})


def _finished_run(tmp_path: Path, store: Store) -> RunFolder:
    """Three trials: the first beats the others in both objectives."""
    run = RunFolder.create(tmp_path / "run", {"name": "run", "store": str(store.root)})
    for number in range(3):
        entry = _artifact(store, f"k{number}")
        trial = Trial(
            number=number,
            candidate_id=str(number),
            candidate={"model.path": "a"},
            state="complete",
            figures={
                "accuracy": Figure(value=0.9 - number / 10, n=10),
                "latency_p50_ms": Figure(value=1.0 + number, n=10),
            },
            stages=(StageCost(name="runtime", key=entry.key, seconds=1.0, reused=False),),
        )
        run.write_trial(trial)
        store.checkout(entry, run.bundle(number))
        seal(
            run.bundle(number),
            runtime="torch",
            prompt=Prompt(),
            max_new_tokens=4,
            execution=Execution(),
            candidate=trial.candidate,
            provenance={"stages": [{"name": "runtime", "key": entry.key}]},
        )
    pin_front(store, run, run.read_trials())
    return run


def _there(store: Store) -> set[str]:
    return {path.stem for path in (store.root / "entries").iterdir()}


def test_bundles_off_the_front_give_way_and_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run = _finished_run(tmp_path, store)
    with run.writing():
        assert make_room(store, 1).over == 2999
    assert _there(store) == {"k0", "k1", "k2"}
    room = make_room(store, 2000)
    assert (room.freed, room.over) == (1000, 0)
    assert _there(store) == {"k0", "k2"}
    assert [path.name for path in run.bundle(1).iterdir()] == [MANIFEST]
    assert bundle_of(run, 0) == run.bundle(0)
    open_bundle(run.bundle(0))
    open_bundle(bundle_of(run, 2))
    with pytest.raises(BadInput, match="the bundle of trial 1 is not whole and the store no longer has its files"):
        bundle_of(run, 1)
    _artifact(store, "k1")
    open_bundle(bundle_of(run, 1))
    assert (run.bundle(1) / "model.txt").stat().st_nlink == 2


def test_a_bundle_whose_bytes_are_damaged_is_laid_out_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run = _finished_run(tmp_path, store)
    file = run.bundle(1) / "model.txt"
    file.chmod(0o644)
    file.write_bytes(b"x" * 1000)
    with pytest.raises(BadInput, match="no longer has its files"):
        bundle_of(run, 1)
    _artifact(store, "k1")
    open_bundle(bundle_of(run, 1))
    assert file.read_bytes() == b"k1" * 500


def test_two_searches_share_a_store_that_is_too_small(project: Callable[..., Path], tmp_path: Path) -> None:
    """Each ends whole; then all is damaged, and a third and an export make good of it."""
    config = project(AXES, budget=f"{TRIALS}trials", workers=1)
    shared = {"store": str(tmp_path / "shared"), "store_limit": "1kB"}
    with points(config) as first, points(config) as second:
        folders = [first.fresh("one", **shared), first.fresh("two", **shared, seed=1)]
        for folder in folders:
            (folder / "store").symlink_to(tmp_path / "shared")
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(lambda run, folder: run.run(folder), (first, second), folders))
        assert ended == [(0, ""), (0, "")]
        for folder in folders:
            check_whole(folder)
        store = Store(tmp_path / "shared")
        assert {one.run for one in pins(store)} == {folder / "run" for folder in folders}
        for blob in (store.root / "blobs").glob("*/*"):
            blob.chmod(0o644)
            content = bytearray(blob.read_bytes())
            content[len(content) // 2] ^= 1
            blob.write_bytes(content)
        third = first.fresh("three", **shared)
        (third / "store").symlink_to(tmp_path / "shared")
        assert first.run(third) == (0, "")
        check_whole(third)
        number = json.loads(next((folders[0] / "run" / "trials").glob("*.json")).read_bytes())["number"]
        out = tmp_path / "deployed"
        assert first.run(folders[0], None, "export", str(folders[0] / "run"), str(number), str(out)) == (0, "")
        open_bundle(out)
        check_store(store.root)


def test_what_a_pick_may_prefer_is_pinned_beside_the_front_also_with_an_objective_of_a_plug_in(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    figure = {"name": "words", "label": "Words", "unit": "", "direction": "min", "relative": False}
    search = {"objectives": ["accuracy", "words"], "figures": [figure]}
    run = RunFolder.create(tmp_path / "run", {"name": "run", "search": search})
    values = {0: (0.9, 5.0, 30.0), 1: (0.8, 6.0, 10.0), 2: (0.7, 7.0, 20.0)}
    for number, (accuracy, words, size) in values.items():
        stage = StageCost(name="model", key=f"key-{number}", seconds=1.0, reused=False)
        figures = {"accuracy": accuracy, "words": words, "size_mb": size}
        run.write_trial(
            Trial(
                number=number,
                candidate_id=str(number),
                candidate={},
                state="complete",
                figures={name: Figure(value=value) for name, value in figures.items()},
                stages=(stage,),
            )
        )
    pin_front(store, run, run.read_trials())
    (pinned,) = pins(store)
    assert pinned.bundles == {0, 1}
    assert pinned.keys == {"key-0", "key-1"}
