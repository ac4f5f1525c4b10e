"""What every runtime has to keep to, built in or not. Plug-ins are found by their entry points."""

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hardware_profiles.bundle import Bundle, Execution, seal, served
from hardware_profiles.runtimes import Question, Runtime, find, names
from spaces.errors import BadInput
from spaces.images import read_image
from spaces.prompting import Prompt

RUNTIMES = {
    "openvino": "tiny_openvino",
    "torch": "tiny_checkpoint",
    "server": "tiny_checkpoint",
    "torch_eager": "tiny_checkpoint",
}
"""Runtime -> the fixture of an artifact that it loads."""
PINNED = {"server": served("tiny")}


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, plugin: ModuleType, tiny_server: str) -> Runtime:
    return find(request.param)


@pytest.fixture
def bundle(runtime: Runtime, request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    folder = tmp_path / "bundle"
    shutil.copytree(request.getfixturevalue(RUNTIMES[runtime.name]), folder)
    return seal(
        folder,
        runtime=runtime.name,
        prompt=Prompt(),
        max_new_tokens=3,
        execution=PINNED.get(runtime.name, Execution()),
        candidate={},
        provenance={},
    )


@pytest.fixture
def questions(tiny_images: list[Path]) -> list[Question]:
    texts = ("what is this ?", "what colour is this ball ?", "blue ?")
    return [
        Question(id=f"q{number}", image_HWC=read_image(path), prompt=texts[number % 3])
        for number, path in enumerate(tiny_images)
    ]


def test_the_table_names_every_runtime(plugin: ModuleType) -> None:
    assert set(names()) == set(RUNTIMES)


def test_capabilities_name_knobs_with_their_values(runtime: Runtime) -> None:
    assert all("." in knob and values for knob, values in runtime.capabilities.items())
    runtime.prepare()


def test_an_answer_comes_with_times_that_fit_together(
    runtime: Runtime, bundle: Bundle, questions: list[Question]
) -> None:
    session = runtime.load(bundle)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in session.properties.items())
    timing = session.answer(questions[0])
    assert timing.id == "q0"
    assert 1 <= len(timing.token_ms) <= 3
    assert list(timing.token_ms) == sorted(timing.token_ms)
    assert 0 < timing.ttft_ms <= timing.e2e_ms
    assert timing.token_ms[0] == pytest.approx(timing.ttft_ms)
    parts = (timing.preprocess_ms, timing.vision_ms, timing.prefill_ms)
    assert sum(part for part in parts if part is not None) <= timing.e2e_ms * 1.001


def test_many_answers_are_those_of_one_by_one_in_their_order(
    runtime: Runtime, bundle: Bundle, questions: list[Question]
) -> None:
    session = runtime.load(bundle)
    many = session.answer_many(questions)
    assert [answer.id for answer in many] == [question.id for question in questions]
    assert [answer.text for answer in many] == [session.answer(question).text for question in questions]
    assert all(1 <= answer.tokens <= 3 for answer in many)


def test_every_runtime_gives_the_reference_answers(
    runtime: Runtime, bundle: Bundle, questions: list[Question], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "reference")
    reference = seal(
        tmp_path / "reference",
        runtime="torch",
        prompt=Prompt(),
        max_new_tokens=3,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    wanted = [answer.text for answer in find("torch").load(reference).answer_many(questions)]
    given = [answer.text for answer in runtime.load(bundle).answer_many(questions)]
    assert np.mean([a == b for a, b in zip(wanted, given, strict=True)]) >= 0.95


def test_a_bundle_without_its_weights_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json"):
        runtime.load(bundle)
