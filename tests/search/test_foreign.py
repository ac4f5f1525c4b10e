"""A checkpoint that the project did not make, through the real stages, sealed and asked as `vlmfront run` does."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml

from hardware_profiles.ask import ask
from hardware_profiles.bundle import Bundle, Execution, open_bundle, seal
from hardware_profiles.runtimes import Question, find
from hardware_profiles.store import Entry, Store
from search.build import StageTree, build_stage
from search.cli import main
from spaces.axes import Samples, model, runtime
from spaces.axes.files import read_json
from spaces.images import read_image
from spaces.plugins import builtin
from spaces.prompting import Prompt
from spaces.reader import load_space
from tests.foreign import CHATML, build_foreign
from tests.project import Project

Built: TypeAlias = dict[str, dict[str, tuple[Path, Entry, bool]]]
PRUNED = {"pruning": {"ffn": 0.5}, "tuning": {"method": "lora", "steps": 2, "rank": 4}}


def sealed(folder: Path, runtime_name: str) -> Bundle:
    seal(
        folder,
        runtime=runtime_name,
        prompt=Prompt(),
        max_new_tokens=6,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    return open_bundle(folder)


def questions(samples: Samples) -> list[Question]:
    return [Question(id=row.id, image_HWC=read_image(row.image), prompt=row.question) for row in samples["calibration"]]


@pytest.fixture(scope="module")
def built(foreign_checkpoint: Path, foreign_samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Of the candidates int4 and int8, each stage's artifact, laid out, its entry, and whether it was reused."""
    folder = tmp_path_factory.mktemp("built")
    axes = PRUNED | {"model": {"path": str(foreign_checkpoint)}}
    axes |= {"quantization": {"weights": ["int4", "int8"], "group_size": 32}}
    (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    space = load_space(folder / "space.yaml", builtin())
    tree = StageTree(space, foreign_samples, {"train": "t", "calibration": "c"}, 6, 0)
    store = Store(folder / "store")
    made: Built = {}
    for candidate in space.candidates():
        bits = str(candidate.values["quantization.weights"])
        made[bits] = {}
        for stage in tree.plan(candidate):
            entry, reused = build_stage(stage, store.root)
            store.checkout(entry, folder / bits / stage.axis)
            made[bits][stage.axis] = (folder / bits / stage.axis, entry, reused)
    return made


def test_it_goes_through_prune_tune_export_quantize_and_run(built: Built, foreign_samples: Samples) -> None:
    assert list(built["int4"]) == ["model", "pruning", "tuning", "runtime", "quantization"]
    assert [axis for axis, (_, _, reused) in built["int8"].items() if not reused] == ["quantization"]
    assert built["int4"]["runtime"][1].checks == {"parity_items": 8, "parity_equal": 8}
    answers = {}
    for bits, stages in built.items():
        bundle = sealed(stages["quantization"][0], "openvino")
        many = find("openvino").load(bundle).answer_many(questions(foreign_samples))
        row = foreign_samples["calibration"][1]
        assert ask(bundle.folder, row.image, row.question, {}).text == many[1].text
        answers[bits] = [answer.text for answer in many]
    for texts in answers.values():
        assert len(set(texts)) > 3
    assert answers["int4"] != answers["int8"]
    config = read_json(bundle.folder / "config.json")
    assert (config["text_config"]["intermediate_size"], config["image_seq_length"]) == (64, 576)


class Spy:
    """What the language model is given: rows of token ids, padding taken off, by whoever asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import openvino
        from transformers import LlavaForConditionalGeneration

        self.batched: list[list[int]] = []
        self.torch: list[list[int]] = []
        infer, generate = openvino.InferRequest.infer, LlavaForConditionalGeneration.generate

        def spied_infer(request: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            given = inputs.get(0) if isinstance(inputs, dict) else None
            if given is not None and given.dtype == np.int64 and given.ndim == 2 and given.shape[1] > 1:
                self.batched += [np.trim_zeros(row, "f").tolist() for row in given]
            return infer(request, inputs, *rest, **named)

        def spied_generate(module: Any, **named: Any) -> Any:
            for row, mask in zip(named["input_ids"], named["attention_mask"], strict=True):
                self.torch.append(row[mask.bool()].tolist())
            return generate(module, **named)

        monkeypatch.setattr(openvino.InferRequest, "infer", spied_infer)
        monkeypatch.setattr(LlavaForConditionalGeneration, "generate", spied_generate)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_genai_the_batched_engine_and_torch_lay_out_the_same_ids_and_answer_alike(
    tower: str,
    built: Built,
    foreign_samples: Samples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CLIP behind pruning and tuning; SigLIP with whole features, stretched images, another template and resolution."""
    import openvino_genai

    visual, checkpoint, export = 576, built["int4"]["tuning"][0], built["int4"]["runtime"][0]
    if tower == "siglip":
        visual = 16
        settings: dict[str, Any] = {"vision": "siglip_vision_model", "vision_fields": {"patch_size": 8}}
        settings |= {"template": CHATML, "vision_feature_select_strategy": "full"}
        source = build_foreign(tmp_path / "source", **settings)
        checkpoint, export = tmp_path / "checkpoint", tmp_path / "export"
        checkpoint.mkdir()
        export.mkdir()
        model.AXIS.apply({"path": str(source), "image_size": 32}, source, checkpoint, {}, 0)
        runtime.AXIS.apply({"name": "openvino"}, checkpoint, export, {}, 0)
    asked = questions(foreign_samples)
    spy = Spy(monkeypatch)
    reference = find("torch").load(sealed(checkpoint, "torch")).answer_many(asked)
    session = find("openvino").load(sealed(export, "openvino"))
    batched, single = session.answer_many(asked), [session.answer(question) for question in asked]
    texts = [answer.text for answer in reference]
    assert len(set(texts)) > 4
    assert [answer.text for answer in batched] == texts
    assert [timing.text for timing in single] == texts
    wanted = spy.torch
    assert {*map(tuple, spy.batched)} == {*map(tuple, wanted)}
    assert all(row.count(3) == visual for row in wanted)
    words = openvino_genai.Tokenizer(str(export))
    for question in asked:
        chat = [{"role": "user", "content": f"<image>\n{question.prompt}"}]
        ids = words.encode(words.apply_chat_template(chat, add_generation_prompt=True), add_special_tokens=False)
        row = ids.input_ids.data[0].tolist()
        place = row.index(3)
        assert [*row[:place], *[3] * visual, *row[place + 1 :]] in wanted


def _renamed(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name.replace("norm.weight", "norm.scale"): one for name, one in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def _without_a_shard(folder: Path) -> None:
    from safetensors.numpy import load_file

    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_renamed, "norm.weight"),
        (_cut, "model.safetensors is no valid safetensors file"),
        (_without_a_shard, "lacks the shard model-00002-of-00002.safetensors"),
    ],
)
def test_a_search_with_a_damaged_checkpoint_ends_before_any_work(
    damage: Callable[[Path], None],
    message: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = project()
    damage(path.parent / "models/b")
    before = sorted(path.parent.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["vlmfront", "search", str(path), "--run", str(path.parent / "runs/one")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert message in said
    assert sorted(path.parent.rglob("*")) == before
