"""What no candidate of a space may be: combinations of knobs that a model's shape does not allow.

A rule is asked about every combination of the knobs it names that can occur together, model by model, so a space is
refused as a whole before anything is built. What one axis says of its own values is in that axis's file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from spaces.axes import Value
from spaces.axes.quantization import nearest_group
from spaces.errors import BadInput
from spaces.estimate import Choices, part_dtypes
from spaces.knobs import Choices as Listed
from spaces.knobs import Knob
from spaces.pruned import smaller
from spaces.shape import Part, Shape, Tower, read_shape
from spaces.space import Space, grid

_POINTS = 33
"""Of a continuous knob so many values are tried, evenly spread with both ends."""

Rule: TypeAlias = Callable[[Shape, Choices], "Objection | None"]


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a combination cannot be. ``knob`` is at fault in full name; ``problem`` and ``cure`` are clauses."""

    knob: str
    problem: str
    cure: str


def refuse_illegal(space: Space) -> None:
    """Refuse a space in which some candidate cannot be built of its model.

    Raises:
        BadInput: for the first such combination, naming knob, model and what would do.
    """
    known = shapes(space)
    for names, rule in RULES:
        for found in space.together(("model.path", *names), _values):
            model = str(found["model.path"])
            choices = {axis.name: space.with_defaults(found, axis.name) for axis in space.axes}
            if objection := rule(known[model], choices):
                raise BadInput(_sentence(space, model, found, objection))


def shapes(space: Space) -> dict[str, Shape]:
    """The shape of every model that the space names, by path.

    Raises:
        BadInput: a folder cannot be read, naming the space file.
    """
    knob = space.knob("model.path")
    try:
        return {str(model): read_shape(space.folder / str(model)) for model in (grid(knob) if knob else ())}
    except BadInput as error:
        raise BadInput(f"{space.source}: axes.model.path: {error}") from None


def idle(space: Space) -> tuple[Knob, ...]:
    """Knobs that count in no candidate, whatever else is chosen."""
    return tuple(knob for knob in space.knobs if all(knob.name not in found for found in space.together([knob.name])))


def _values(knob: Knob) -> tuple[Value, ...]:
    if isinstance(knob, Listed) or knob.count is not None:
        return grid(knob)
    step = (knob.high - knob.low) / (_POINTS - 1)
    return tuple(knob.low + index * step for index in range(_POINTS))


def _sentence(space: Space, model: str, found: Mapping[str, Value], objection: Objection) -> str:
    beside = {
        name: value
        for name, value in found.items()
        if name not in ("model.path", objection.knob) and name.startswith("pruning.") and value
    }
    pruning = "".join(f" with {name} {value:g}" for name, value in beside.items() if not isinstance(value, str))
    listed = "" if space.knob(objection.knob) else " (its default, as the space does not list it)"
    return f"{space.source}: axes.{objection.knob}{listed}: {objection.problem} in {model}{pruning}; {objection.cure}."


def _layers_left(shape: Shape, choices: Choices) -> Objection | None:
    for prefix, tower in (("", shape.language), ("vision_", shape.vision)):
        knob = f"{prefix}layers"
        if not smaller(tower, choices["pruning"], prefix).layers:
            share = float(choices["pruning"][knob])
            return Objection(
                knob=f"pruning.{knob}",
                problem=f"{share:g} leaves none of the {tower.layers} layers",
                cure=f"take at most {int(100 * (1 - 1 / tower.layers)) / 100:g}",
            )
    return None


def _group_fits(shape: Shape, choices: Choices) -> Objection | None:
    quantization, pruning = choices["quantization"], choices["pruning"]
    size, dtypes = int(quantization["group_size"]), part_dtypes(quantization)
    parts: tuple[tuple[Part, str, str, list[int]], ...] = (
        ("language", "weights", "language model", row_widths(smaller(shape.language, pruning, ""))),
        ("vision", "vision", "vision tower", row_widths(smaller(shape.vision, pruning, "vision_"))),
        ("projector", "projector", "projector", _projector_widths(shape)),
    )
    for part, knob, name, widths in parts:
        if dtypes[part] == "int4" and any(width % size for width in widths):
            nearest = nearest_group(widths, size)
            listed = ", ".join(str(width) for width in sorted(set(widths)))
            return Objection(
                knob="quantization.group_size",
                problem=f"{size} does not divide the {name}'s widths ({listed})",
                cure=f"take {nearest}" if nearest else f"let quantization.{knob} be int8",
            )
    return None


def row_widths(tower: Tower) -> list[int]:
    """The row lengths of a tower's linear layers, which int4 groups must divide: hidden, heads together, FFN."""
    return [tower.width, tower.heads * tower.head_dim, tower.ffn]


def _projector_widths(shape: Shape) -> list[int]:
    return [one.shape[1] for one in shape.tensors if one.part == "projector" and len(one.shape) == 2]


def _whole_patches(shape: Shape, choices: Choices) -> Objection | None:
    size, patch = int(choices["model"].get("image_size", 0)), shape.patch_size
    if size % patch == 0:
        return None
    nearest = max(patch, round(size / patch) * patch)
    return Objection(
        knob="model.image_size",
        problem=f"{size} pixels are no multiple of the patch of {patch}",
        cure=f"take {nearest}",
    )


def _knobs(axis: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{axis}.{name}" for name in names)


_INT4 = _knobs("quantization", "weights", "vision", "projector", "group_size")
RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (_knobs("pruning", "layers"), _layers_left),
    (_knobs("pruning", "vision_layers"), _layers_left),
    ((*_knobs("pruning", "ffn", "heads"), *_INT4), _group_fits),
    ((*_knobs("pruning", "vision_ffn", "vision_heads"), *_INT4), _group_fits),
    (_knobs("model", "image_size"), _whole_patches),
)
"""Rules with the knobs that each looks at; the model always belongs to them."""
