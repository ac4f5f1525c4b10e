from pathlib import Path

import pytest
import yaml

from hardware_profiles.profile import built_in, local
from search.feasibility import in_bytes, unfit
from spaces.axes import Value
from spaces.estimate import estimate
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.shape import read_shape


@pytest.mark.parametrize("knobs", [{}, {"quantization": {"weights": "int8"}}, {"pruning": {"ffn": 0.5}}])
def test_the_least_memory_must_be_there(
    knobs: dict[str, dict[str, Value]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    axes = {"model": {"path": str(tiny_checkpoint)}, **knobs}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    space = load_space(tmp_path / "space.yaml", builtin())
    candidate = next(space.candidates())
    choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    least = estimate(read_shape(tiny_checkpoint), choices).memory_bytes
    assert unfit(candidate, space, local().model_copy(update={"memory_bytes": least})) is None
    reason = unfit(candidate, space, local().model_copy(update={"memory_bytes": least - 1}))
    assert reason is not None
    assert reason.startswith("the weights and the cache of one image alone need 0.")


@pytest.mark.parametrize(
    ("count", "words"), [(999, "0.00 MB"), (12_340_000, "12.3 MB"), (456e6, "456 MB"), (4.26e9, "4.26 GB")]
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert in_bytes(count) == words


def test_profiles_that_come_along_are_whole_and_say_where_from() -> None:
    found = {profile.name: profile for profile in built_in()}
    assert {"raspberry-pi-5-8gb", "jetson-orin-nano-8gb"} <= set(found)
    for profile in found.values():
        assert profile.memory_bytes >= 1 << 30
        assert profile.threads
        assert "f32" in profile.dtypes
        assert len(profile.source) > 40
    assert local().name not in found
