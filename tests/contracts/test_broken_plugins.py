"""An installed plug-in that is broken, and a reference to one, are refused in one sentence where they are needed."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles import runtimes
from objectives import registry
from reports import sections
from search import samplers
from search.checks import legal_space
from spaces import plugins
from spaces.errors import BadInput

Install = Callable[[str, str], None]
GROUPS: dict[str, tuple[str, Callable[[], Any]]] = {
    "axis": (plugins.GROUP, plugins.available),
    "runtime": (runtimes.GROUP, lambda: runtimes.find("odd")),
    "objective": (registry.GROUP, registry.available),
    "sampler": (samplers.GROUP, lambda: samplers.find("odd")),
    "report section": (sections.GROUP, sections.available),
}
REFERENCES: dict[str, Callable[[str], Any]] = {
    "axis": plugins.load,
    "objective": registry.load,
    "sampler": samplers.find,
    "report section": sections.load,
}
BROKEN = {
    "raise RuntimeError('no licence')": "RuntimeError: no licence",
    "def (": "SyntaxError",
    "": "AttributeError",
    "raise KeyError": "KeyError",
}
WRONG = {"axis": "lacks name, version", "runtime": "TypeError", "objective": "lacks name, label"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution whose entry point ``odd`` of a group leads to the attribute ODD of a module."""

    def write(group: str, source: str) -> None:
        (tmp_path / "odd_plugin.py").write_text(source)
        info = tmp_path / "odd_dist-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nodd = odd_plugin:ODD\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield write
    sys.modules.pop("odd_plugin", None)


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("kind", GROUPS)
def test_an_installed_one_that_does_not_load_is_named(kind: str, source: str, install: Install) -> None:
    group, needed = GROUPS[kind]
    install(group, source)
    with pytest.raises(BadInput) as refused:
        needed()
    assert f"the installed {kind} 'odd' of odd-dist: it cannot be loaded ({BROKEN[source]}" in str(refused.value)
    assert "reinstall or uninstall it" in str(refused.value)


@pytest.mark.parametrize("kind", GROUPS)
def test_an_installed_one_that_is_something_else_is_named(kind: str, install: Install) -> None:
    group, needed = GROUPS[kind]
    install(group, "ODD = object()")
    with pytest.raises(BadInput, match=f"installed {kind} 'odd' of odd-dist: .*{WRONG.get(kind, '')}.*uninstall it"):
        needed()


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("kind", REFERENCES)
def test_a_reference_that_does_not_load_is_named(kind: str, source: str, install: Install) -> None:
    install("of.nobody", source)
    with pytest.raises(BadInput) as refused:
        REFERENCES[kind]("odd_plugin:ODD")
    assert f"{kind} 'odd_plugin:ODD': it cannot be loaded ({BROKEN[source]}" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("domains = {'k': 1}", "domains: k is no"),
        ("version = '1'", "another type"),
        ("", "it is a class"),
    ],
)
def test_an_axis_is_what_its_protocol_says(change: str, why: str, install: Install) -> None:
    base = "from spaces.axes.prompt import PromptAxis\nclass Odd(PromptAxis):\n    name = 'odd'\n"
    install(plugins.GROUP, f"{base}    {change}\nODD = Odd{'()' if change else ''}\n")
    with pytest.raises(BadInput, match=f"installed axis 'odd' of odd-dist: .*{why}"):
        plugins.available()


def test_a_runtime_that_is_broken_costs_only_the_spaces_that_name_it(
    install: Install, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    install(runtimes.GROUP, "raise RuntimeError('no driver')")

    def space(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        axes = {"model": {"path": str(tiny_checkpoint)}, "runtime": {"name": name}}
        path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
        return path

    assert legal_space(space("torch")).count == 1
    with pytest.raises(BadInput, match=r"installed runtime 'odd' of odd-dist: .*no driver"):
        legal_space(space("odd"))
    with pytest.raises(BadInput, match="there is no runtime 'tflite'; there are odd, openvino, server, torch"):
        legal_space(space("tflite"))
