from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spaces.axes import Value
from spaces.axes.prompt import AXIS, SPLIT, bound_prompt
from spaces.errors import BadInput, StageFailed
from spaces.exemplars import Pool, pixel_digest, read_pool
from spaces.fitting import Fit, fitted
from spaces.images import read_image
from spaces.prompting import Prompt, in_order, render
from spaces.sample import Sample
from tests.spaces.axes.conftest import contents, full_choice, vision_outputs

HINTS = {"count": "answer with a number ."}


def bound(**choice: Value) -> Prompt:
    return bound_prompt(full_choice(AXIS, choice), "kind", HINTS, "kind")


def test_a_hint_follows_the_rendered_template() -> None:
    prompt = bound(template="look : {question}", hint=True)
    assert render(prompt, "how many ?", {"kind": "count"}) == "look : how many ? answer with a number ."
    assert render(prompt, "which ?", {"kind": "colour"}) == "look : which ?"


def test_without_the_hint_the_task_s_hints_stay_out() -> None:
    prompt = bound()
    assert render(prompt, "how many ?", {"kind": "count"}) == "how many ?"


@pytest.mark.parametrize("template", ["", "no place", "{question} and {question}"])
def test_a_template_has_the_question_once(template: str) -> None:
    with pytest.raises(BadInput, match="exactly once"):
        bound_prompt(full_choice(AXIS, {"template": template}))


def test_a_hint_needs_a_task_with_hints() -> None:
    with pytest.raises(BadInput, match="no hints"):
        bound_prompt(full_choice(AXIS, {"hint": True}))


def test_words_alone_leave_the_artifact_as_it_is(tmp_path: Path) -> None:
    choice = full_choice(AXIS, {"template": "look . {question}", "hint": True})
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "config.json").write_text("{}")
    AXIS.apply(choice, source, target, {}, 0)
    assert contents(target) == contents(source)
    assert not AXIS.changes(choice)
    assert AXIS.reads(choice) == ()


def test_exemplars_are_bound_with_the_field_that_they_share() -> None:
    prompt = bound(exemplars=2, exemplar_choice="nearest", exemplar_order="reversed")
    assert (prompt.exemplars, prompt.exemplar_choice, prompt.exemplar_order) == (2, "nearest", "reversed")
    assert prompt.exemplar_field == "kind"
    assert bound(exemplar_choice="nearest") == Prompt()
    assert in_order(prompt, ["far", "near"]) == ("near", "far")


@pytest.fixture
def pool(tmp_path: Path) -> tuple[Sample, ...]:
    rng = np.random.default_rng(3)
    rows = []
    for number in range(14):
        path, kind = tmp_path / f"{number}.png", ("light", "bolts")[number % 2]
        Image.fromarray(rng.integers(0, 256, (16, 16 + number, 3), dtype=np.uint8)).save(path)
        fields = {"kind": kind, "wording": "known"}
        rows.append(
            Sample(id=str(number), image=path, question=f"q{number}", answers=("a", "b"), fields=fields, group=kind)
        )
    return tuple(rows)


def add(source: Path, target: Path, pool: tuple[Sample, ...], seed: int = 0, **choice: Value) -> Pool:
    target.mkdir()
    AXIS.apply(full_choice(AXIS, choice), source, target, {SPLIT: pool}, seed)
    return read_pool(target / "exemplars", nearest=choice["exemplar_choice"] == "nearest")


def test_fixed_ones_are_the_first_of_each_group(
    tiny_checkpoint: Path, tmp_path: Path, pool: tuple[Sample, ...]
) -> None:
    made = add(tiny_checkpoint, tmp_path / "target", pool, exemplars=2, exemplar_choice="fixed")
    assert {group: [row.question for row in made.first(group, 9)] for group in made.groups} == {
        "light": ["q0", "q2"],
        "bolts": ["q1", "q3"],
    }
    assert {row.answer for row in made.rows} == {"a"}
    assert made.rows[0].fields == {"kind": "light", "wording": "known"}
    target, source = contents(tmp_path / "target"), contents(tiny_checkpoint)
    assert {name: data for name, data in target.items() if name in source} == source
    for row in made.rows:
        sample = next(sample for sample in pool if sample.question == row.question)
        stored = read_image(made.folder / row.image)
        fit = Fit.read(tiny_checkpoint)
        np.testing.assert_array_equal(stored, fitted(read_image(sample.image), fit))
        assert row.pixels == pixel_digest(stored)


def test_random_ones_are_drawn_from_the_seed(tiny_checkpoint: Path, tmp_path: Path, pool: tuple[Sample, ...]) -> None:
    drawn = {
        name: [
            row.question
            for row in add(tiny_checkpoint, tmp_path / name, pool, seed, exemplars=3, exemplar_choice="random").rows
        ]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert drawn["a"] == drawn["b"] != drawn["c"]
    for name in drawn:
        kinds = [int(question[1:]) % 2 for question in drawn[name]]
        assert kinds == [0, 0, 0, 1, 1, 1]
        assert len(set(drawn[name])) == 6


def test_nearest_ones_are_all_with_embeddings_of_the_own_graph(
    exported: Path, tmp_path: Path, pool: tuple[Sample, ...]
) -> None:
    made = add(exported, tmp_path / "target", pool, exemplars=2, exemplar_choice="nearest")
    again = add(exported, tmp_path / "again", pool, exemplars=2, exemplar_choice="nearest")
    assert contents(made.folder) == contents(again.folder)
    assert len(made.rows) == len(pool)
    assert made.vectors is not None
    fit = Fit.read(exported)
    by_question = {row.question: vector for row, vector in zip(made.rows, made.vectors, strict=True)}
    for sample in pool:
        pixels = fitted(read_image(sample.image), fit).astype(np.float64).transpose(2, 0, 1)[None] / 255 * 2 - 1
        mean = vision_outputs(exported, pixels.astype(np.float32))[0].astype(np.float64).mean(0)
        np.testing.assert_allclose(by_question[sample.question], mean / np.linalg.norm(mean), atol=1e-5)


def test_what_cannot_be_shown_is_refused_with_the_reason(
    tiny_checkpoint: Path, tmp_path: Path, pool: tuple[Sample, ...]
) -> None:
    cases: list[tuple[tuple[Sample, ...], dict[str, Any], str]] = [
        (pool, {"exemplars": 2, "exemplar_choice": "nearest"}, "nearest needs runtime.name openvino"),
        (pool[:3], {"exemplars": 2, "exemplar_choice": "fixed"}, "the group 'bolts' has 1 rows"),
        ((), {"exemplars": 2, "exemplar_choice": "random"}, "split for them has none"),
    ]
    for number, (rows, choice, words) in enumerate(cases):
        with pytest.raises(StageFailed, match=words):
            add(tiny_checkpoint, tmp_path / str(number), rows, **choice)
