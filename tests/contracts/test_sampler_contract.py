"""What every sampler has to keep to, built in or not, over a space with conditions."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from search import samplers
from search.study import Study
from spaces.errors import BadInput
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.space import Space

SAMPLERS = ("tpe", "nsga2", "random", "halton")
ASKED = 24


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, plugin: ModuleType) -> str:
    assert set(samplers.names()) == set(SAMPLERS)
    return str(request.param)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    axes = {
        "model": {"path": ["a", "b"]},
        "pruning": {"ffn": {"low": 0.0, "high": 0.5}},
        "quantization": {"weights": ["fp16", "int8", "int4"], "group_size": [32, 64]},
        "runtime": {"threads": {"low": 1, "high": 4}},
    }
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


def ask(journal: Path, space: Space, sampler: str, seed: int = 0) -> list[str]:
    """The ids of ASKED candidates; every fifth trial fails, every seventh misses a limit."""
    study = Study(journal, space, ["maximize", "minimize"], seed, sampler)
    ids = []
    for number in range(ASKED):
        asked = study.ask()
        assert asked is not None
        assert space.candidate(asked.candidate.values).id == asked.candidate.id
        ids.append(asked.candidate.id)
        if number % 5 == 4:
            study.fail(asked.number, "CRASH: it did", final=True)
        else:
            study.tell(asked.number, [number % 3, number % 4], {"size_mb.max": 1.0 if number % 7 == 6 else -1.0})
    return ids


def test_it_draws_legal_candidates_and_none_twice(tmp_path: Path, space: Space, sampler: str) -> None:
    ids = ask(tmp_path / "journal", space, sampler)
    assert len(set(ids)) == ASKED


def test_the_same_seed_draws_the_same_and_another_seed_others(tmp_path: Path, space: Space, sampler: str) -> None:
    first, again = (ask(tmp_path / name, space, sampler) for name in ("a", "b"))
    assert first == again
    assert ask(tmp_path / "c", space, sampler, seed=1) != first


@pytest.mark.parametrize("name", ["tpee", "nowhere:make", "search.samplers:GROUP", "json:dumps", "builtins:int"])
def test_what_is_no_sampler_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="sampler"):
        samplers.find(name)


BROKEN = """
import optuna

class Late(optuna.samplers.RandomSampler):
    def {method}(self, *arguments):
        {body}

def make(seed):
    return Late(seed=seed)

def picky(seed):
    return 1 // (not seed) and make(seed)
"""


@pytest.mark.parametrize(
    ("method", "body", "why"),
    [
        ("sample_independent", "raise RuntimeError('no points left')", "RuntimeError: no points left"),
        ("sample_independent", "return 'neither of them'", "ValueError"),
        ("infer_relative_search_space", "return None", "TypeError"),
        ("sample_relative", "return {'nothing': 1}", "KeyError"),
        ("before_trial", "return {}[0]", "KeyError"),
    ],
)
def test_a_sampler_that_breaks_while_it_draws_is_named(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch, method: str, body: str, why: str
) -> None:
    (tmp_path / "late_sampler.py").write_text(BROKEN.format(method=method, body=body))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "late_sampler", raising=False)
    study = Study(tmp_path / "journal", space, ["maximize"], 0, "late_sampler:make")
    with pytest.raises(BadInput, match=f"the sampler 'late_sampler:make' broke .{why}"):
        study.ask()
    with pytest.raises(BadInput, match=r"the sampler 'late_sampler:picky' broke .ZeroDivisionError"):
        Study(tmp_path / "other", space, ["maximize"], 1, "late_sampler:picky")


def test_what_the_disk_refuses_a_sampler_is_the_disks(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_sampler.py").write_text(BROKEN.format(method="before_trial", body="raise OSError(28, 'full')"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "late_sampler", raising=False)
    with pytest.raises(OSError, match="full"):
        Study(tmp_path / "journal", space, ["maximize"], 0, "late_sampler:make").ask()
