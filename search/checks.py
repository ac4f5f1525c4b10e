"""What is refused before a search begins, beyond what the readers of its files refuse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from hardware_profiles.runtimes import capabilities
from objectives.folders import refuse_read_only
from objectives.task import Task
from spaces.axes import Value
from spaces.axes.model import check_model_folder
from spaces.axes.prompt import SPLIT as EXEMPLARS
from spaces.axes.prompt import check_template
from spaces.errors import BadInput, StageFailed
from spaces.knobs import Choices, Knob, Range
from spaces.legality import refuse_illegal
from spaces.plugins import stage_reads
from spaces.reader import load_space
from spaces.sample import Sample
from spaces.space import COUNTED, Space, grid

IMAGE_TOKENS = ("<image>", "<ov_genai_image")


def models(space: Space) -> tuple[str, ...]:
    """The model folders that the space names."""
    return tuple(str(value) for value in values(space, "model.path"))


def values(space: Space, name: str) -> tuple[Value, ...]:
    """The values that a knob can have in this space; none where the space does not have it."""
    knob = space.knob(name)
    return grid(knob) if knob else ()


def legal_space(path: Path) -> Space:
    """The space in a file, every candidate of which can be built of its model for its runtime.

    Raises:
        BadInput: one sentence naming file, field and what would do.
    """
    space = load_space(path)
    space.check(capabilities(values(space, "runtime.name")))
    splits_read(space)
    refuse_bad_models(space)
    refuse_illegal(space)
    return space


def refuse_missing_splits(space: Space, splits: Mapping[str, object], task: Path) -> None:
    """Every stage that some candidate may have must find the samples it reads; export always needs a few.

    Raises:
        BadInput: naming the file and the field.
    """
    for split in sorted({"calibration", *splits_read(space)} - {EXEMPLARS, *splits}):
        raise BadInput(f"{task}: splits.{split}: this space needs a {split} split; name its JSONL file.")


def splits_read(space: Space) -> set[str]:
    """What the stages of the space's candidates read: of each axis, of its first ``COUNTED`` combinations of values.

    Of a range count both ends, the middle and what conditions name; of listed numbers as many.

    Raises:
        BadInput: an axis breaks when it is asked.
    """
    found: set[str] = set()
    for axis in space.axes:
        names = [knob.name for knob in space.knobs if knob.name.startswith(f"{axis.name}.")]
        for assignment in islice(space.together(names, partial(space.walked, most=3)), COUNTED):
            try:
                found.update(stage_reads(axis, space.with_defaults(assignment, axis.name)) or ())
            except StageFailed as error:
                raise BadInput(f"{space.source}: {error}; correct or uninstall the plug-in.") from None
    return found


def refuse_prompts(space: Space, task: Task) -> None:
    """Every prompt of the space must have a place for the question, and hints to give if it promises some.

    Raises:
        BadInput: naming the file and the field.
    """
    for template in values(space, "prompt.template"):
        check_template(str(template), f"{space.source}: axes.prompt.template")
    if True in values(space, "prompt.hint") and not task.hints:
        raise BadInput(
            f"{space.source}: axes.prompt.hint: the task has no hints; add `hints` to {task.path} or leave it out."
        )


def refuse_missing_hints(space: Space, task: Task, judged: Mapping[str, Sequence[Sample]]) -> None:
    """Where a candidate may be asked with hints, every row that scores it, by split, must have one.

    Raises:
        BadInput: naming the first row without.
    """
    if True not in values(space, "prompt.hint"):
        return
    for split, item in ((split, item) for split, items in judged.items() for item in items):
        value = item.fields.get(task.hint_field)
        if value not in task.hints:
            found = f"{task.hint_field}={value}" if value is not None else f"a row without {task.hint_field!r}"
            raise BadInput(
                f"{task.splits[split]}: row {item.id!r}: there is no hint for {found}; "
                f"add it to hints.values in {task.path}, or correct the row."
            )


def refuse_image_tokens(space: Space, task: Task, splits: Mapping[str, Sequence[Sample]]) -> None:
    """Text that stands for an image would be taken for one: no question, template or hint may hold it.

    Raises:
        BadInput: naming the row, the template or the hint.
    """
    texts = {f"{task.splits[name]}: row {one.id!r}": one.question for name, rows in splits.items() for one in rows}
    texts |= {f"{space.source}: axes.prompt.template": str(one) for one in values(space, "prompt.template")}
    texts |= {f"{task.path}: hints.values.{name}": hint for name, hint in task.hints.items()}
    for where, text in texts.items():
        for token in IMAGE_TOKENS:
            if token in text:
                raise BadInput(f"{where}: {token!r} stands for an image and cannot be in a text; take it out.")


def refuse_bad_models(space: Space) -> None:
    """Every model of the space must be a folder that loads.

    Raises:
        BadInput: naming the space file and what is wrong with the folder.
    """
    for model in models(space):
        try:
            check_model_folder(space.folder / model)
        except BadInput as error:
            raise BadInput(f"{space.source}: axes.model.path: {error}") from None


class Able(Protocol):
    """What of a device bears on execution settings: a profile, or several devices together."""

    @property
    def threads(self) -> int: ...
    @property
    def dtypes(self) -> tuple[str, ...]: ...


def narrowed(space: Space, device: Able) -> tuple[Space, tuple[str, ...]]:
    """The space without execution settings that this device does not have, and a sentence about each that went.

    Threads and dtypes that its profile leaves to the machine rule nothing out.

    Raises:
        BadInput: nothing is left of a knob.
    """
    able: dict[str, Callable[[Value], bool]] = {
        "runtime.threads": lambda threads: not device.threads or int(threads) <= device.threads,
        "runtime.inference_precision": lambda precision: not device.dtypes or precision in device.dtypes,
    }
    knobs: list[Knob] = []
    notes = []
    for knob in space.knobs:
        has = f"this device has {device.threads} threads and computes {', '.join(device.dtypes)} natively"
        where = f"{space.source}: axes.{knob.name}"
        if isinstance(knob, Choices) and knob.name in able:
            kept = tuple(value for value in knob.values if able[knob.name](value))
            gone = ", ".join(str(value) for value in knob.values if value not in kept)
            if not kept:
                raise BadInput(f"{where}: {gone} cannot be run, {has}.")
            if gone:
                notes.append(f"{knob.name}: {gone} left out, {has}.")
            knob = replace(knob, values=kept)
        elif isinstance(knob, Range) and knob.name == "runtime.threads" and 0 < device.threads < knob.high:
            if knob.low > device.threads:
                raise BadInput(f"{where}: {knob.low:g} and more cannot be run, {has}.")
            notes.append(f"{knob.name}: more than {device.threads} left out, {has}.")
            fitting = tuple(value for value in grid(knob) if int(value) <= device.threads)
            knob = Choices(name=knob.name, when=knob.when, clauses=knob.clauses, values=fitting)
        knobs.append(knob)
    return replace(space, knobs=tuple(knobs)), tuple(notes)


def refuse_unwritable(store: Path) -> None:
    """The artifacts' folder, or the nearest folder above it that exists, must take new files.

    Raises:
        BadInput: naming the file and the field.
    """
    nearest = next(folder for folder in (store, *store.parents) if folder.exists())
    try:
        refuse_read_only(nearest)
    except OSError as error:
        raise BadInput(f"{store}: the store of artifacts cannot be kept there ({error.strerror}).") from None
