"""Which devices a search file names, and what its objectives and limits come to on them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles import profile
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


def test_a_stand_in_goes_by_its_profiles_name_wherever_the_file_is(project: Project) -> None:
    config = project(device={"profile": "mine.yaml", "predicted": True})
    built_in = Path(profile.__file__).with_name("profiles") / "raspberry-pi-5-8gb.yaml"
    mine = yaml.safe_load(built_in.read_text()) | {"name": "line-3"}
    (config.parent / "mine.yaml").write_text(yaml.safe_dump(mine))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(config.parent)
        prepared = prepare(config, run=config.parent / "run", budget=None, resume=False)
    prepared.close()
    assert prepared.fleet.names == tuple(prepared.run.settings["devices"]) == ("line-3",)
