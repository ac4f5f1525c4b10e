"""Exemplars on the device: the same answers whichever way they are computed, and what each way computes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.agent.runner import decode_job, run
from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Job, Request, encode
from hardware_profiles.questions import Asker
from hardware_profiles.runtimes import Question, find
from hardware_profiles.runtimes.chat import chat
from hardware_profiles.runtimes.openvino_shots import FewShotSession
from spaces.errors import BadInput
from spaces.images import read_image
from spaces.sample import Sample

Sealed = Callable[..., Bundle]
PATCHES = 4  # visual tokens of the tiny model
FIXED = {"exemplars": 2, "exemplar_choice": "fixed"}
NEAREST = {"exemplars": 2, "exemplar_choice": "nearest"}


def asked(bundle: Bundle, requests: Sequence[Request]) -> list[Question]:
    asker = Asker(bundle.folder, bundle.manifest.prompt)
    return [asker.question(request) for request in requests]


def loaded(bundle: Bundle) -> FewShotSession:
    session = find("openvino").load(bundle)
    assert isinstance(session, FewShotSession)
    return session


def test_both_runtimes_answer_alike_after_two_examples(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    openvino, torch = sealed("openvino", shots=FIXED), sealed("torch", shots=FIXED)
    questions = asked(openvino, requests[:20])
    reference = find("torch").load(torch)
    texts = [reference.answer(question).text for question in questions[:12]]
    assert len(set(texts)) > 3
    plain = find("torch").load(sealed("torch"))
    assert texts != [plain.answer(question).text for question in asked(sealed("openvino"), requests[:12])]
    fast = loaded(openvino)
    timings = [fast.answer(question) for question in questions]
    assert [timing.text for timing in timings[:12]] == texts
    assert [answer.text for answer in reference.answer_many(questions)] == [timing.text for timing in timings]
    many = fast.answer_many(questions)
    assert [answer.text for answer in many] == [timing.text for timing in timings]
    assert [answer.tokens for answer in many] == [len(timing.token_ms) for timing in timings]
    assert [answer.id for answer in many] == [question.id for question in questions]


@pytest.mark.parametrize(
    ("choice", "order"), [("fixed", "forward"), ("random", "reversed"), ("nearest", "forward"), ("nearest", "reversed")]
)
def test_a_kept_beginning_changes_no_answer(
    sealed: Sealed, requests: tuple[Request, ...], choice: str, order: str
) -> None:
    bundle = sealed(shots={"exemplars": 3, "exemplar_choice": choice, "exemplar_order": order})
    questions = asked(bundle, requests[:16])
    session = loaded(bundle)
    kept = [session.answer(question).text for question in questions]
    session.caches = False
    assert [session.answer(question).text for question in questions] == kept
    assert [answer.text for answer in session.answer_many(questions)] == kept
    assert len(set(kept)) > 1


def test_logits_behind_a_kept_beginning_are_those_of_the_whole_prompt(
    sealed: Sealed, requests: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sealed(shots=FIXED)
    session = loaded(bundle)
    graphs = session.graphs
    questions = asked(bundle, [request for request in requests if request.fields["kind"] == "shape"][:4])
    assert len({len(question.prompt.split()) for question in questions}) > 2
    examples = questions[0].examples
    prefix = session._prefixes.get(examples)
    prompts = graphs.tokens([chat(question, examples) for question in questions])
    assert all(prefix.begins(ids) for ids in prompts)
    before = graphs.see([example.image_HWC[:16, :16] for example in examples])
    own = graphs.see([question.image_HWC for question in questions])
    seen: list[Any] = []
    infer = graphs._infer

    def recorded(*given: Any) -> Any:
        seen.append(infer(*given).copy())
        return seen[-1]

    monkeypatch.setattr(graphs, "_infer", recorded)
    graphs.generate(*graphs.lay_out([ids[len(prefix.ids) :] for ids in prompts], [[one] for one in own]), prefix)
    batched = seen[0]
    for row, ids in enumerate(prompts):
        seen.clear()
        graphs.generate(*graphs.lay_out([ids[len(prefix.ids) :]], [[own[row]]]), prefix)
        np.testing.assert_allclose(seen[0][0], batched[row], atol=2e-4)
        seen.clear()
        graphs.generate(*graphs.lay_out([ids], [[*before, own[row]]]))
        np.testing.assert_allclose(seen[0][0], batched[row], atol=2e-4)


def test_only_what_is_asked_is_prefilled_again(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed(shots=FIXED)
    session = loaded(bundle)
    question = asked(bundle, requests[1:2])[0]
    ids = session.graphs.tokens([chat(question, question.examples)])[0]
    whole = len(ids) + 3 * (PATCHES - 1)
    own = len(session.graphs.tokens([chat(question, ())])[0]) + PATCHES - 1 - 1  # <bos> stands before the first turn

    def cost() -> tuple[int, int]:
        session.graphs.prefilled = session.graphs.seen = 0
        session.answer(question)
        return session.graphs.prefilled, session.graphs.seen

    assert cost() == (whole, 3)
    assert cost() == (own, 1)
    session.caches = False
    assert cost() == (whole, 3)


def test_nearest_examples_are_encoded_and_prefilled_with_every_question(
    sealed: Sealed, requests: tuple[Request, ...]
) -> None:
    bundle = sealed(shots=NEAREST)
    session = loaded(bundle)
    question = asked(bundle, requests[1:2])[0]
    session.answer(question)
    for _ in range(2):
        session.graphs.prefilled = session.graphs.seen = 0
        session.answer(question)
        assert session.graphs.seen == 3
        assert session.graphs.prefilled > 3 * PATCHES + len(question.prompt.split())


def test_the_nearest_images_are_shown_and_never_the_asked_one(
    sealed: Sealed, exemplars: tuple[Sample, ...], tiny_images: list[Path], tiny_openvino: Path
) -> None:
    import openvino as ov

    from spaces.fitting import Fit, fitted, normalised

    bundle = sealed(shots=NEAREST)
    session = loaded(bundle)
    asker = Asker(bundle.folder, bundle.manifest.prompt)
    fit = Fit.read(tiny_openvino)
    vision = ov.Core().compile_model(tiny_openvino / "openvino_vision_embeddings_model.xml", "CPU")

    def mean(path: Path) -> np.ndarray[Any, Any]:
        return np.asarray(vision(normalised([fitted(read_image(path), fit)], fit))[0][0].mean(0), np.float64)

    for group in ("colour", "shape"):
        members = [row for row in exemplars if row.group == group]
        for path in (*tiny_images[:4], *(row.image for row in members)):
            vector = mean(path)
            others = [row for row in members if row.image != path]
            far = [-(mean(r.image) @ vector) / np.linalg.norm(mean(r.image)) / np.linalg.norm(vector) for r in others]
            best = [others[at] for at in np.argsort(far, kind="stable")[:2]]
            request = Request(id="", image=str(path), question="what is this ?", fields={"kind": group})
            question = asker.question(request)
            assert question.retrieve is not None
            image = fitted(question.image_HWC, fit)
            shown = question.retrieve(image, session.graphs.see([image])[0])
            hint = " red green blue" if group == "colour" else ""
            expected = [(row.question + hint, row.answers[0]) for row in reversed(best)]
            assert [(one.prompt, one.answer) for one in shown] == expected
            for one, row in zip(shown, reversed(best), strict=True):
                np.testing.assert_array_equal(fitted(one.image_HWC, fit), fitted(read_image(row.image), fit))


def test_a_beginning_that_is_none_is_not_used(
    sealed: Sealed, requests: tuple[Request, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sealed(shots=FIXED)
    questions = asked(bundle, requests[:6])
    session = loaded(bundle)
    session.caches = False
    expected = [session.answer(question).text for question in questions]
    session.caches = True
    tokens = session.graphs.tokens
    monkeypatch.setattr(
        session.graphs, "tokens", lambda chats, ask=True: tokens(chats) if ask else [ids[1:] for ids in tokens(chats)]
    )
    assert [session.answer(question).text for question in questions] == expected
    session.graphs.seen = 0
    session.answer(questions[0])
    assert session.graphs.seen == 3


def test_beginnings_that_were_not_used_for_long_are_dropped(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    from hardware_profiles.runtimes.openvino_prefixes import Prefixes

    bundle = sealed(shots=FIXED)
    session = loaded(bundle)
    colour, shape = (asked(bundle, [request])[0].examples for request in (requests[1], requests[0]))
    prefixes = Prefixes(session.graphs, session._fit, most=1)
    first = prefixes.get(colour)
    assert prefixes.get(colour) is first
    prefixes.get(shape)
    assert colour not in prefixes
    assert shape in prefixes


def test_more_tokens_than_the_model_has_positions_for_are_refused(
    sealed: Sealed, requests: tuple[Request, ...]
) -> None:
    shots = {"exemplars": 6, "exemplar_choice": "fixed"}
    for runtime in ("openvino", "torch"):
        bundle = sealed(runtime, shots=shots, max_new_tokens=60)
        session = find(runtime).load(bundle)
        question = asked(bundle, requests[1:2])[0]
        for ask in (session.answer, lambda one, session=session: session.answer_many([one])):
            with pytest.raises(BadInput, match=r"the model has positions for 128; lower prompt\.exemplars\.$"):
                ask(question)


def test_a_text_that_stands_for_an_image_is_refused(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed(shots=FIXED)
    request = Request(id="", image=requests[1].image, question="what <image> ?", fields={"kind": "shape"})
    with pytest.raises(BadInput, match="stands for an image"):
        loaded(bundle).answer(asked(bundle, [request])[0])


def test_a_question_without_its_field_is_refused_with_the_values(sealed: Sealed, tiny_images: list[Path]) -> None:
    bundle = sealed(shots=FIXED)
    for fields, words in (({}, "picks exemplars by 'kind'"), ({"kind": "size"}, "no exemplars for kind=size")):
        request = Request(id="", image=str(tiny_images[0]), question="what is this ?", fields=fields)
        with pytest.raises(BadInput, match=rf"{words}; give --field kind=VALUE, one of colour, shape\.$"):
            asked(bundle, [request])


def test_torch_says_that_it_finds_no_nearest(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    questions = asked(sealed(shots=NEAREST), requests[:1])
    with pytest.raises(BadInput, match="torch finds no nearest exemplars"):
        find("torch").load(sealed("torch")).answer(questions[0])


class Heard:
    """Events of a runner in this process."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def send(self, event: str, **content: Any) -> None:
        self.said.append((event, content))

    def tick(self) -> None:
        pass


def job(kind: str, bundle: Bundle, requests: tuple[Request, ...]) -> Heard:
    heard = Heard()
    asked_for = Job(kind=kind, bundle=str(bundle.folder), requests=requests)  # type: ignore[arg-type]
    run(decode_job(encode(asked_for)), heard)  # type: ignore[arg-type]
    return heard


def test_the_runner_scores_in_batches_what_it_answers_singly(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed(shots=FIXED)
    session = loaded(bundle)
    expected = [session.answer(question).text for question in asked(bundle, requests[:12])]
    said = job("answer", bundle, requests[:12]).said
    assert [one["text"] for name, content in said if name == "answers" for one in content["answers"]] == expected
    assert ("warm", {"properties": {"scoring": "in batches; batches agreed on 8 of 8"}}) in said


def test_the_runner_times_nearest_examples_part_by_part(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed(shots=NEAREST)
    session = loaded(bundle)
    expected = [session.answer(question).text for question in asked(bundle, requests[:11])]
    said = job("measure", bundle, requests[:11]).said
    timings = [content["timing"] for name, content in said if name == "timing"]
    assert [timing["text"] for timing in timings] == expected
    for timing in timings:
        parts = timing["preprocess_ms"], timing["vision_ms"], timing["prefill_ms"]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(timing["ttft_ms"])
        assert timing["token_ms"][0] == timing["ttft_ms"] <= timing["token_ms"][-1] <= timing["e2e_ms"]


def test_plain_requests_are_asked_without_hint_and_examples(sealed: Sealed, requests: tuple[Request, ...]) -> None:
    bundle = sealed("openvino", shots=FIXED)
    foreign = [replace(request, fields={"size": "big"}, plain=True) for request in requests[:6]]
    with pytest.raises(BadInput, match="picks exemplars by"):
        asked(bundle, [replace(foreign[0], plain=False)])
    mixed = asked(bundle, [*requests[:6], *foreign])
    assert [question.prompt for question in mixed[6:]] == [request.question for request in foreign]
    session, reference = loaded(bundle), find("torch").load(sealed("torch", shots=FIXED))
    texts = [reference.answer(question).text for question in mixed[6:]]
    assert len(set(texts)) > 1
    assert [answer.text for answer in session.answer_many(mixed)][6:] == texts
    assert [session.answer(question).text for question in mixed[6:]] == texts
