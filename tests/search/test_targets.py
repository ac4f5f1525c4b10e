"""Which devices a search file names, and what its objectives and limits come to on them."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import hardware_profiles
from objectives.devices import devices_of
from search import targets
from search.config import SearchConfig, load_config
from search.session import prepare
from spaces.errors import BadInput
from tests.project import Project


@pytest.fixture(autouse=True)
def paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "known_names", lambda: ("local", "pi", "jetson", "nx", "agx"))


def read(folder: Path, **fields: Any) -> SearchConfig:
    document = {"schema": "vlmfront.search/1", "name": "n", "task": "task.yaml", "space": "space.yaml", **fields}
    (folder / "search.yaml").write_text(yaml.safe_dump(document))
    return load_config(folder / "search.yaml")


def test_one_device_has_plain_names(tmp_path: Path) -> None:
    assert read(tmp_path).targets.names == ("local",)
    found = read(tmp_path, device="pi", objectives=["accuracy", "load_s@pi"], limits={"energy_j": {"max": 2}})
    assert found.targets.names == ("pi",)
    assert found.objectives == ("accuracy", "load_s")
    assert found.limits == {"energy_j": {"max": 2.0}}


def test_several_have_those_of_a_device_each(tmp_path: Path) -> None:
    limits = {"memory_peak_mb": {"max": 500}, "memory_peak_mb@pi": {"max": 300}, "size_mb": {"max": 9}}
    found = read(tmp_path, devices=["pi", "jetson"], objectives=["accuracy", "latency_p50_ms"], limits=limits)
    assert found.objectives == ("accuracy", "latency_p50_ms@pi", "latency_p50_ms@jetson")
    assert found.limits == {
        "size_mb": {"max": 9.0},
        "memory_peak_mb@pi": {"max": 300.0},
        "memory_peak_mb@jetson": {"max": 500.0},
    }
    one = read(tmp_path, devices=["pi", "jetson"], objectives=["accuracy", "latency_p50_ms@pi"])
    assert one.objectives == ("accuracy", "latency_p50_ms@pi")


def test_predictions_are_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, device={"profile": "jetson-orin-nano-8gb", "predicted": True}).targets
    assert (found.names, found.predicted) == (("jetson-orin-nano-8gb",), True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"device": "pi", "devices": ["jetson"]}, "name the devices in one of the two fields"),
        (
            {"device": "tx2"},
            "device: 'tx2' is not paired; `vlmfront device list` .* `vlmfront device add tx2 HOST:PORT",
        ),
        ({"devices": ["pi", "tx2"]}, "devices: 'tx2' is not paired"),
        ({"devices": ["pi", "pi"]}, "one to 4 different devices"),
        ({"devices": []}, "one to 4 different devices"),
        ({"devices": ["local", "pi", "jetson", "nx", "agx"]}, "one to 4 different devices"),
        ({"device": 3}, "names of paired devices"),
        ({"device": {"profile": "pi"}}, "{profile: NAME, predicted: true} is expected"),
        ({"device": {"profile": "pi", "predicted": True, "x": 1}}, "'x' is unknown"),
        ({"objectives": ["accuracy@local"]}, "accuracy is the same on every device; leave @local out"),
        ({"objectives": ["load_s@pi"]}, "'pi' is unknown"),
        ({"limits": {"load@local": {"max": 1}}}, "'load' is unknown; did you mean load_s"),
        (
            {"devices": ["pi", "jetson"], "objectives": ["accuracy", "latency_p50_ms", "energy_j"]},
            "come to 5 .accuracy, latency_p50_ms@pi.* at most 4",
        ),
        ({"devices": ["pi", "nx"], "objectives": ["load_s", "load_s@pi"]}, "different figures are expected"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(tmp_path, **fields)


def test_a_profile_s_file_goes_by_the_name_within(project: Project, tmp_path: Path) -> None:
    folder = Path(hardware_profiles.__file__).parent / "profiles"
    profile = (folder / "raspberry-pi-5-8gb.yaml").read_text()
    (tmp_path / "board.yaml").write_text(profile.replace("name: raspberry-pi-5-8gb", "name: my-board"))
    config = project(device={"profile": str(tmp_path / "board.yaml"), "predicted": True})
    with closing(prepare(config, run=tmp_path / "run", budget=None, resume=False)) as prepared:
        assert prepared.fleet.names == devices_of(prepared.run.settings) == ("my-board",)


def test_a_profile_without_figures_is_refused_before_anything_is_built(project: Project, tmp_path: Path) -> None:
    config = project(device={"profile": "jetson-orin-nano-8gb", "predicted": True})
    with pytest.raises(BadInput, match="lacks the bandwidth or the peak of its cpu, which openvino runs on"):
        prepare(config, run=tmp_path / "run", budget=None, resume=False)
    assert not (tmp_path / "run").exists()
