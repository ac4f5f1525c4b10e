from pathlib import Path

import pytest

from spaces.axes import Axis
from spaces.errors import BadInput
from spaces.plugins import available, builtin, load

ORDER = ["model", "pruning", "tuning", "runtime", "visual_tokens", "quantization", "prompt"]


def test_the_built_in_axes_stand_in_stage_order() -> None:
    assert [axis.name for axis in builtin()] == [axis.name for axis in available()] == ORDER


@pytest.mark.parametrize("axis", builtin(), ids=lambda axis: axis.name)
def test_every_axis_has_sound_domains(axis: Axis) -> None:
    defaults = {name: domain.default for name, domain in axis.domains.items()}
    assert axis.version >= 1
    assert isinstance(axis.changes(defaults), bool)
    assert axis.reads(defaults) == ()
    for domain in axis.domains.values():
        assert domain.help
        assert domain.kind != "choice" or domain.default in domain.values
        assert domain.kind not in ("int", "float") or domain.low <= float(domain.default) <= domain.high
        assert set(domain.when) <= set(axis.domains)


def test_a_reference_adds_an_axis_before_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_axis.py").write_text(
        "from spaces.axes.prompt import PromptAxis\n"
        "class Mine(PromptAxis):\n    name = 'mine'\n"
        "AXIS, NOTHING = Mine(), object()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [axis.name for axis in available(["my_axis:AXIS"])] == [*ORDER[:-1], "mine", "prompt"]
    with pytest.raises(BadInput, match="'my_axis:NOTHING': it lacks name, version"):
        load("my_axis:NOTHING")


@pytest.mark.parametrize(
    "reference", ["nowhere:AXIS", "spaces.axes.prompt:NOTHING", "spaces.axes.prompt", ":AXIS", ".x:AXIS"]
)
def test_a_reference_that_leads_nowhere_is_refused(reference: str) -> None:
    with pytest.raises(BadInput, match="module:attr"):
        load(reference)


def test_two_axes_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="two axes are called 'tuning'"):
        available(["spaces.axes.tuning:AXIS"])
