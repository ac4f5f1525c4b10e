import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_profiles.ask import ask
from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import JobFailed
from hardware_profiles.runtimes.openvino import OpenVINORuntime
from spaces.errors import BadInput

Sealed = Callable[..., Bundle]


def test_a_bundle_with_hints_is_not_asked_without_one(
    sealed: Sealed, tiny_images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = sealed().folder
    cure = r"; add --field kind=colour \(one of colour\)\.$"
    with pytest.raises(BadInput, match=rf"picks its hint by the field 'kind'{cure}"):
        ask(folder, tiny_images[0], "what is this ?", {"colour": "kind"})
    with pytest.raises(BadInput, match=rf"has no hint for kind=shape{cure}"):
        ask(folder, tiny_images[0], "what is this ?", {"kind": "shape"})
    assert ask(folder, tiny_images[0], "what is this ?", {"kind": "colour"}).token_ms
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("error", "fault"),
    [(RuntimeError("Check failed at plugin.cpp:5:\nno such op\n"), "CRASH"), (RuntimeError("std::bad_alloc"), "OOM")],
)
def test_what_an_engine_throws_is_one_sentence(
    sealed: Sealed, tiny_images: list[Path], monkeypatch: pytest.MonkeyPatch, error: Exception, fault: str
) -> None:
    def load(self: object, bundle: Bundle) -> None:
        raise error

    monkeypatch.setattr(OpenVINORuntime, "load", load)
    with pytest.raises(JobFailed) as failed:
        ask(sealed().folder, tiny_images[0], "what is this ?", {"kind": "colour"})
    assert failed.value.fault == fault
    assert "\n" not in str(failed.value)
