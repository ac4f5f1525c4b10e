import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from hardware_profiles.profile import built_in, local
from search.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command in this process: exit code, what it printed, what it complained of."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["vlmfront", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def space(project: Callable[..., Path]) -> Path:
    axes: dict[str, Any] = {
        "model": {"path": ["models/a", "models/b"]},
        "pruning": {"ffn": {"choices": [0, 0.5], "when": {"model.path": ["models/b"]}}},
        "quantization": {"weights": ["fp16", "int8"], "group_size": 32},
        "prompt": {"hint": [False, True]},
    }
    return project(axes).parent / "space.yaml"


def edit(path: Path, **axes: Any) -> Path:
    document = yaml.safe_load(path.read_text())
    document["axes"] |= axes
    path.write_text(yaml.safe_dump(document))
    return path


def test_check_says_what_a_space_holds(call: Call, space: Path) -> None:
    code, out, _ = call("space", "check", space, "--task", space.with_name("task.yaml"))
    assert code == 0
    assert "is legal: 12 candidates, 2 models" in out
    assert "quantization.group_size never counts" in out
    code, out, _ = call("space", "check", space, "--json")
    found = json.loads(out)
    assert (found["candidates"], found["models"]) == (12, ["models/a", "models/b"])
    assert {knob["name"] for knob in found["knobs"]} >= {"pruning.ffn", "prompt.hint"}
    assert any("never counts" in note for note in found["notes"])


@pytest.mark.parametrize("verb", ["check", "list", "estimate"])
@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"quantization": {"weights": "int4", "group_size": 128}}, ["quantization.group_size", "take 64"]),
        ({"runtime": {"name": "torch"}}, ["quantization.weights", "torch", "int8"]),
        ({"model": {"path": "models/none"}, "pruning": {"ffn": 0}}, ["axes.model.path", "models/none"]),
        ({"tuning": {"method": "lorra"}}, ["tuning.method", "lorra", "lora"]),
    ],
)
def test_what_is_not_legal_is_refused_in_one_sentence(
    verb: str, axes: dict[str, Any], words: list[str], call: Call, space: Path
) -> None:
    code, out, message = call("space", verb, edit(space, **axes))
    assert (code, out) == (2, "")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message


def test_check_reads_the_task_too(call: Call, space: Path) -> None:
    task = space.with_name("task.yaml")
    task.write_text(yaml.safe_dump(yaml.safe_load(task.read_text()) | {"hints": None}))
    assert call("space", "check", space)[0] == 0
    code, _, message = call("space", "check", space, "--task", task)
    assert code == 2
    assert "prompt.hint" in message


def test_list_gives_every_candidate_once(call: Call, space: Path) -> None:
    found = json.loads(call("space", "list", space, "--json")[1])
    assert found["candidates"] == len(found["listed"]) == len({one["id"] for one in found["listed"]}) == 12
    assert all(
        one["values"].get("pruning.ffn", 0) == 0 for one in found["listed"] if one["values"]["model.path"] == "models/a"
    )
    code, out, _ = call("space", "list", space, "--limit", 3)
    assert code == 0
    assert found["listed"][2]["id"] in out
    assert found["listed"][3]["id"] not in out
    assert "3 of 12 candidates" in out
    continuous = edit(space, pruning={"ffn": {"low": 0.0, "high": 0.5}})
    assert "continuous" in call("space", "list", continuous)[2]


def test_estimate_says_what_fits(call: Call, space: Path, tmp_path: Path) -> None:
    tensors = load_file(space.parent / "models" / "a" / "model.safetensors")
    fp16 = 2 * sum(int(np.prod(one.shape)) for one in tensors.values())
    small = tmp_path / "small.yaml"
    profile = {"schema": "vlmfront.profile/1", "name": "small", "memory_bytes": fp16 - 2000, "threads": 1}
    small.write_text(yaml.safe_dump(profile | {"dtypes": ["f32"], "source": "made up"}))
    found = json.loads(call("space", "estimate", space, "--device", small, "--json")[1])
    settings = {
        (one["model"], one["knobs"]["quantization.weights"], one["knobs"].get("pruning.ffn")): one
        for one in found["settings"]
    }
    assert set(settings) == {("models/a", w, None) for w in ("fp16", "int8")} | {
        ("models/b", w, share) for w in ("fp16", "int8") for share in (0, 0.5)
    }  # fmt: skip
    assert settings["models/a", "fp16", None]["fits"] == {"small": False}
    assert settings["models/a", "int8", None]["fits"] == {"small": True}
    assert settings["models/b", "fp16", 0.5]["estimate"]["parameters"] < fp16 // 2
    assert found["builds"] == {"model": 2, "pruning": 1, "runtime": 3, "quantization": 3}
    code, out, _ = call("space", "estimate", space, "--device", small)
    assert code == 0
    assert "cannot run" in out
    assert "group_size" not in out
    assert "small: " in out
    assert "no latency predicted, its profile lacks figures" in out
    everywhere = json.loads(call("space", "estimate", space, "--json")[1])
    here, board = (everywhere["settings"][0]["predicted"][name] for name in (local().name, "raspberry-pi-5-8gb"))
    assert 0 < here["latency_ms"]["low"] < here["latency_ms"]["value"] < here["latency_ms"]["high"]
    assert not board["calibrated"]
    assert board["memory_bytes"]["low"] == everywhere["settings"][0]["memory_bytes"]
    sources = {one["name"]: one["sources"] for one in everywhere["devices"]}
    assert sources[local().name]["cpu.peak"]["verified"]
    assert not sources["raspberry-pi-5-8gb"]["cpu.peak"]["verified"]
    out = call("space", "estimate", space)[1]
    assert "predicted: latency" in out
    assert "predicted, unverified: latency" in out
    assert {one["name"] for one in everywhere["devices"]} > {one.name for one in built_in()}


def test_builds_are_those_that_a_search_would_plan(space: Path, tiny_images: list[Path]) -> None:
    from search.build import StageTree
    from search.outlook import builds
    from spaces.plugins import builtin
    from spaces.reader import load_space

    config = space.parent / "models" / "b" / "config.json"
    config.write_text(config.read_text() + " ")  # the two models are copies: now their digests differ
    loaded = load_space(edit(space, visual_tokens={"keep": [1.0, 0.5]}, tuning={"method": ["none", "lora"]}), builtin())
    data = {"train": (), "calibration": ()}
    tree = StageTree(loaded, data, dict.fromkeys(data, ""), 4, 0)
    planned = {(stage.axis, stage.key) for candidate in loaded.candidates() for stage in tree.plan(candidate)}
    assert builds(loaded) == {
        axis.name: count for axis in builtin() if (count := sum(name == axis.name for name, _ in planned))
    }


@pytest.mark.parametrize("verb", ["check", "list", "estimate"])
def test_every_verb_has_help_with_an_example(verb: str, call: Call) -> None:
    code, out, _ = call("space", verb, "--help")
    assert code == 0
    assert f"Example: vlmfront space {verb}" in out
    assert "--json" in out


_SHARES = ("ffn", "heads", "layers", "vision_ffn", "vision_heads", "vision_layers")
_FINE = {"low": 0, "high": 0.9, "step": 1.0e-6}
_THOUSANDTHS = {"low": 0, "high": 0.9, "step": 0.001}


@pytest.mark.parametrize("verb", ["check", "list", "estimate"])
@pytest.mark.parametrize(
    "axes",
    [
        {"pruning": {share: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6] for share in _SHARES}},
        {"pruning": dict.fromkeys(_SHARES, _FINE) | {"importance": ["weights", "activations"]}},
        {"pruning": {"importance": {"choices": ["activations"], "when": {"pruning.ffn": [0.9]}}}
         | dict.fromkeys(_SHARES, _THOUSANDTHS)},
        {
            "pruning": dict.fromkeys(_SHARES, _THOUSANDTHS | {"high": 0.1}),
            "tuning": {"method": ["none", "lora"]} | {
                "steps": {"low": 1, "high": 100_000}, "rate": {"low": 0, "high": 1, "step": 0.1}},
            "visual_tokens": {"keep": {"low": 0.1, "high": 1.0, "step": 0.001}},
            "quantization": {"weights": ["fp16", "int8", "int4"], "vision": ["fp16", "int8"], "mode": ["sym", "asym"]},
            "runtime": {"threads": {"low": 1, "high": 4}},
        },
        {"tuning": {"method": ["none", "lora", "full"], "steps": {"low": 1, "high": 100_000}, "rank": [4, 8, 16]}},
        {"pruning": {"ffn": _FINE}, "quantization": {"weights": "int4"}},
        {"pruning": {"ffn": _THOUSANDTHS, "heads": _THOUSANDTHS | {"high": 0.1}}, "quantization": {"weights": "int4"}},
    ],
)  # fmt: skip
def test_large_spaces_are_looked_at_in_seconds(axes: dict[str, Any], verb: str, call: Call, space: Path) -> None:
    call("space", "check", space)  # imports
    edit(space, **{"quantization": {"weights": ["fp16", "int8"]}} | axes)
    began = time.process_time()
    code, out, _ = call("space", verb, space, "--json")
    assert time.process_time() - began < 3
    assert code == 0
    if verb == "estimate":
        found = json.loads(out)
        assert 0 < len(found["settings"]) <= 2_000
        assert bool(found["notes"]) is ("pruning" in axes)


def test_a_step_too_fine_is_refused(call: Call, space: Path) -> None:
    for step in (5e-324, 1e-18, 8e-7):
        code, _, message = call("space", "check", edit(space, pruning={"ffn": {"low": 0, "high": 0.9, "step": step}}))
        assert code == 2
        assert "axes.pruning.ffn: more than 1,000,000 values" in message
