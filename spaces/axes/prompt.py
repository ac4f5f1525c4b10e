"""The axis of the prompt: what is put around a question, and which rows are shown before it with their images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import VISION_EMBEDDINGS, link_others
from spaces.axes.quiet import quiet
from spaces.errors import BadInput, StageFailed
from spaces.exemplars import FOLDER, Row, embedding, pixel_digest, write_pool
from spaces.fitting import Fit, fitted, normalised, settled
from spaces.images import Pixels, read_image
from spaces.prompting import CHOICES, MOST_EXEMPLARS, ORDERS, QUESTION, Prompt
from spaces.sample import Sample
from spaces.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT = "exemplars"
"""The samples that `PromptAxis.apply` reads: the rows that may be shown, each with its group, few of each group."""

_BATCH = 8  # images


class PromptAxis:
    """Knobs ``template``, ``hint`` (of the task for the sample), ``exemplars`` and how these are chosen and ordered.

    Exemplars are rows of the task, each shown as a turn of the user, its image with its question in the same template
    and with its own hint, and a turn of the assistant, its answer. ``fixed`` takes the first rows of a group and
    ``random`` draws them from the seed: the prompt then begins alike for the whole group. ``nearest`` takes, question
    by question, the rows whose images are nearest by cosine of the mean visual token, as the artifact's own vision
    graph gives them.
    """

    name = "prompt"
    version = 2
    tools: tuple[str, ...] = ("openvino", "numpy", "pillow", "safetensors")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "template": Domain(
                kind="text", default=QUESTION, help="text with {question} in it exactly once", bound=True
            ),
            "hint": Domain(
                kind="flag",
                default=False,
                help="whether the task's hint on the answer follows the question",
                bound=True,
            ),
            "exemplars": Domain(
                kind="int",
                default=0,
                low=0,
                high=MOST_EXEMPLARS,
                help="answered rows with their images that are shown before the question",
            ),
            "exemplar_choice": Domain(
                kind="choice", default="fixed", values=CHOICES, unless={"exemplars": (0,)}, help="which rows are shown"
            ),
            "exemplar_order": Domain(
                kind="choice",
                default="forward",
                values=ORDERS,
                unless={"exemplars": (0, 1)},
                help="as in the file, the nearest last, or reversed",
                bound=True,
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return int(choice["exemplars"]) > 0

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return (SPLIT,) if self.changes(choice) else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:
        """Links the artifact and adds the rows that may be shown; what is bound into the manifest: `bound_prompt`.

        Images are stored as `spaces.fitting.settled` leaves them: fitted again, they have the same pixels.

        Raises:
            StageFailed: there are fewer rows of some group than are to be shown, the artifact does not say how it wants
                its images, or the nearest rows are wanted of one that is no OpenVINO export.
        """
        link_others(source, target, ())
        if not self.changes(choice):
            return
        nearest = choice["exemplar_choice"] == "nearest"
        if nearest and not (source / f"{VISION_EMBEDDINGS}.xml").is_file():
            raise StageFailed("prompt.exemplar_choice nearest needs runtime.name openvino: use fixed or random here.")
        rows = chosen_rows(samples.get(SPLIT, ()), int(choice["exemplars"]), str(choice["exemplar_choice"]), seed)
        try:
            fit = Fit.read(source)
            images = [settled(read_image(sample.image), fit) for sample in rows]
        except BadInput as error:
            raise StageFailed(str(error)) from None
        seen = [fitted(image, fit) for image in images]
        write_pool(
            target / FOLDER,
            [_row(sample, pixel_digest(image)) for sample, image in zip(rows, seen, strict=True)],
            images,
            _embeddings(source, seen, fit) if nearest else None,
        )


def chosen_rows(rows: Sequence[Sample], count: int, choice: str, seed: int) -> list[Sample]:
    """The rows that an artifact carries: all for ``nearest``, else ``count`` of each group, in the order shown.

    Raises:
        StageFailed: a group has fewer rows than ``count``, or there are none at all.
    """
    groups: dict[str, list[Sample]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    if not groups:
        raise StageFailed("prompt.exemplars needs rows to show, and the task's split for them has none.")
    for group, members in groups.items():
        if len(members) < count:
            raise StageFailed(f"prompt.exemplars is {count}, but the group {group!r} has {len(members)} rows to show.")
        if choice == "random":
            order = np.random.default_rng([seed, *group.encode()]).permutation(len(members))
            groups[group] = [members[place] for place in order[:count]]
        elif choice == "fixed":
            groups[group] = members[:count]
    return [row for members in groups.values() for row in members]


def _row(sample: Sample, pixels: str) -> Row:
    return Row(
        image=f"{pixels[:32]}.png",
        question=sample.question,
        answer=sample.answers[0],
        group=sample.group,
        fields=dict(sample.fields),
        pixels=pixels,
    )


def _embeddings(folder: Path, images: Sequence[Pixels], fit: Fit) -> "NDArray[np.float32]":
    """The embedding of each fitted image, (image, width), by the folder's vision graph in f32."""
    vectors = []
    with quiet("openvino"), kept_signal_stack():
        import openvino

        graph = openvino.Core().compile_model(
            folder / f"{VISION_EMBEDDINGS}.xml",
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
        )
        for start in range(0, len(images), _BATCH):
            tokens_BVD = graph(normalised(list(images[start : start + _BATCH]), fit))[0]
            vectors += [embedding(tokens_VD) for tokens_VD in tokens_BVD]
    return np.stack(vectors)


def check_template(template: str, where: str) -> None:
    """Refuses a template without a place for the question; ``where`` names its file and field in the message.

    Raises:
        BadInput: ``{question}`` is not in it exactly once.
    """
    if template.count(QUESTION) != 1:
        raise BadInput(f"{where}: the template {template!r} must have {QUESTION} in it exactly once.")


def bound_prompt(
    choice: Choice, hint_field: str = "", hints: Mapping[str, str] | None = None, exemplar_field: str = ""
) -> Prompt:
    """The prompt that a choice means for a task with these hints (by the value of the sample's field ``hint_field``).

    ``exemplar_field``: the field whose value is an exemplar's group; empty where the task does not tell them apart.

    Raises:
        BadInput: as `check_template`; a hint is chosen but the task has none.
    """
    template = str(choice["template"])
    check_template(template, "prompt.template")
    if choice["hint"] and not (hint_field and hints):
        raise BadInput("prompt.hint is on, but the task has no hints: add `hints` to task.yaml or leave the knob out.")
    prompt = Prompt(template=template)
    if choice["hint"]:
        prompt = replace(prompt, hint_field=hint_field, hints=dict(hints or {}))
    if count := int(choice["exemplars"]):
        prompt = replace(
            prompt,
            exemplars=count,
            exemplar_choice=str(choice["exemplar_choice"]),
            exemplar_order=str(choice["exemplar_order"]),
            exemplar_field=exemplar_field,
        )
    return prompt


AXIS = PromptAxis()
