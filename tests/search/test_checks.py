from pathlib import Path

import pytest
import yaml

from hardware_profiles.profile import Profile, local
from search.checks import narrowed, values
from spaces.errors import BadInput
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.space import Space


def space_of(folder: Path, **runtime: object) -> Space:
    axes = {"model": {"path": ["a"]}, "runtime": runtime}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    return load_space(path, builtin())


@pytest.fixture
def device() -> Profile:
    return local().model_copy(update={"threads": 4, "dtypes": ("f32", "int8")})


def test_settings_that_the_device_lacks_are_left_out_and_named(tmp_path: Path, device: Profile) -> None:
    space, notes = narrowed(space_of(tmp_path, threads=[1, 4, 8], inference_precision=["f32", "bf16"]), device)
    assert values(space, "runtime.threads") == (1, 4)
    assert values(space, "runtime.inference_precision") == ("f32",)
    assert space.size == 2
    assert [note.split(" left out")[0] for note in notes] == ["runtime.threads: 8", "runtime.inference_precision: bf16"]


def test_a_knob_of_which_nothing_is_left_is_refused(tmp_path: Path, device: Profile) -> None:
    with pytest.raises(BadInput, match=r"runtime\.inference_precision: bf16 cannot be run.*f32, int8"):
        narrowed(space_of(tmp_path, inference_precision=["bf16"]), device)


def test_a_space_within_the_device_stays_as_it_is(tmp_path: Path, device: Profile) -> None:
    space = space_of(tmp_path, threads=[1, 2])
    same, notes = narrowed(space, device)
    assert same.id == space.id
    assert notes == ()


def test_what_a_profile_leaves_to_the_machine_rules_nothing_out(tmp_path: Path, device: Profile) -> None:
    unknown = device.model_copy(update={"threads": 0, "dtypes": ()})
    space = space_of(tmp_path, threads={"low": 1, "high": 64, "step": 1}, inference_precision=["f32", "bf16"])
    same, notes = narrowed(space, unknown)
    assert (same.id, notes) == (space.id, ())
