"""What every axis has to keep to, built in or not. For an axis of your own, add a line to `CHOICES`."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spaces.axes import Axis, Value
from spaces.canonical import canonical_json, folder_digest
from spaces.plugins import available
from spaces.sample import Sample

CHOICES: dict[str, tuple[str, dict[str, Value]]] = {
    "model": ("tiny_checkpoint", {"path": "."}),
    "pruning": ("tiny_checkpoint", {"ffn": 0.5}),
    "tuning": ("tiny_checkpoint", {"method": "lora", "steps": 1}),
    "runtime": ("tiny_checkpoint", {}),
    "visual_tokens": ("tiny_openvino", {"keep": 0.5}),
    "quantization": ("tiny_openvino", {"weights": "int8"}),
    "prompt": ("tiny_openvino", {}),
    "resample": ("tiny_openvino", {"filter": "bilinear"}),
}
"""Axis -> the fixture of an artifact that it can be applied to, and a choice that changes it."""


@pytest.fixture(params=CHOICES)
def axis(request: pytest.FixtureRequest, plugin: ModuleType) -> Axis:
    return next(axis for axis in available() if axis.name == request.param)


def chosen(axis: Axis) -> dict[str, Value]:
    defaults = {name: domain.default for name, domain in axis.domains.items()}
    return defaults | CHOICES[axis.name][1]


def test_the_table_names_every_axis(plugin: ModuleType) -> None:
    assert set(CHOICES) == {axis.name for axis in available()}


def test_domains_are_sound(axis: Axis) -> None:
    assert axis.version >= 1
    assert all(isinstance(tool, str) for tool in axis.tools)
    for domain in axis.domains.values():
        canonical_json(domain.default)
        assert domain.help
        assert domain.kind != "choice" or domain.default in domain.values
        assert domain.kind not in ("int", "float") or domain.low <= float(domain.default) <= domain.high
        for others in (domain.when, domain.unless, domain.unless_all):
            assert set(others) <= set(axis.domains)


def test_what_it_says_of_a_choice_can_be_keyed(axis: Axis) -> None:
    for choice in ({name: domain.default for name, domain in axis.domains.items()}, chosen(axis)):
        assert isinstance(axis.changes(choice), bool)
        assert all(isinstance(split, str) for split in axis.reads(choice))
        assert axis.changes(choice) == axis.changes(dict(choice))


def test_applying_it_is_repeatable_and_leaves_its_source_alone(
    axis: Axis, request: pytest.FixtureRequest, tmp_path: Path, samples: dict[str, tuple[Sample, ...]]
) -> None:
    source: Path = request.getfixturevalue(CHOICES[axis.name][0])
    choice: dict[str, Any] = chosen(axis)
    before = folder_digest(source)
    digests = []
    for name in ("once", "twice"):
        target = tmp_path / name
        target.mkdir()
        read = {split: samples[split] for split in axis.reads(choice)}
        axis.apply(choice, source, target, read, 0)
        assert not [path for path in target.rglob("*") if path.is_symlink()]
        digests.append(folder_digest(target))
    assert folder_digest(source) == before
    assert digests[0] == digests[1]
    assert (digests[0] != before) == (axis.name not in ("model", "prompt"))
