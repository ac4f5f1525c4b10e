"""What no candidate of a space may be: combinations of knobs that a model's shape does not allow.

A rule is asked about every combination of the knobs it names that can occur together, model by model, so a space is
refused as a whole before anything is built. What one axis says of its own values is in that axis's file.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from spaces.axes import Value
from spaces.axes.quantization_rules import GROUP_SIZES, illegal
from spaces.axes.resolution import resizing_problem
from spaces.errors import BadInput
from spaces.estimate import Choices
from spaces.knobs import Knob, one_of
from spaces.pruned import pruned_towers
from spaces.serving import SERVER, SERVER_NAME
from spaces.shape import Shape, Tower, read_shape
from spaces.space import Space, each_value, grid

_SHARES = 513
"""Points of a range of shares: closer than one step of 64 channels in FFNs of up to 36,000."""
_LARGEST_GROUP = max(GROUP_SIZES)

_CUTS = ("pruning.ffn", "pruning.heads", "pruning.vision_ffn", "pruning.vision_heads")

Rule: TypeAlias = Callable[[Shape, Choices], str | None]
"""Null, or a sentence that begins with the knob at fault, in full, and ends with the cure."""


def refuse_illegal(space: Space) -> None:
    """Refuse a space in which some candidate cannot be built of its model.

    Raises:
        BadInput: for the first such combination, naming knob, model and what would do.
    """
    known = shapes(space)
    shares = {name: _told_apart(space, name, known) for name in _CUTS}

    def values(knob: Knob) -> Iterable[Value]:
        if knob.name == "model.image_size":
            return each_value(knob)  # Few: of a range, the first that does not fit ends the walk.
        return shares[knob.name] if knob.name in shares else space.walked(knob)

    for names, rule in RULES:
        for found in space.together(("model.path", *names), values):
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


def _told_apart(space: Space, name: str, known: Mapping[str, Shape]) -> tuple[Value, ...]:
    """The shares of one pruning knob that leave widths which other groups divide, one of each kind.

    A knob's share changes one row length alone, so that kinds of two knobs can be combined.
    """
    knob = space.knob(name)
    if knob is None:
        return ()
    named = space.named(knob)
    first: dict[tuple[Value | None, ...], Value] = {}
    for share in space.walked(knob, _SHARES):
        kind = [share if one_of(share, named) else None]
        for shape in known.values():
            left = pruned_towers(shape, {name.removeprefix("pruning."): share})
            rows = (*row_widths(left.language), *row_widths(left.vision))
            kind += [math.gcd(row, _LARGEST_GROUP) for row in rows]
        first.setdefault(tuple(kind), share)
    return tuple(first.values())


def _sentence(space: Space, model: str, found: Mapping[str, Value], objection: str) -> str:
    beside = [f"{name} {value}" for name, value in found.items() if name.startswith("pruning.") and value]
    with_pruning = f" with {' and '.join(beside)}" if beside else ""
    knob = objection.split(" ", 1)[0]
    default = "" if space.knob(knob) else " (its default, as the space does not list it)"
    return f"{space.source}: axes.{knob}{default}: for {model}{with_pruning}, {objection}"


def _group_fits(shape: Shape, choices: Choices) -> str | None:
    left = pruned_towers(shape, choices["pruning"])
    widths = {"weights": row_widths(left.language), "vision": row_widths(left.vision)}
    return illegal(choices["quantization"], {**widths, "projector": projector_widths(shape)})


def row_widths(tower: Tower) -> list[int]:
    """The row lengths of a tower's linear layers, which int4 groups must divide: hidden, heads together, FFN."""
    return [tower.width, tower.heads * tower.head_dim, tower.ffn]


def projector_widths(shape: Shape) -> list[int]:
    """The row lengths of the projector's linear layers."""
    return [one.shape[1] for one in shape.tensors if one.part == "projector" and len(one.shape) == 2]


def _whole_patches(shape: Shape, choices: Choices) -> str | None:
    size = int(choices["model"].get("image_size", 0))
    return resizing_problem({"patch_size": shape.patch_size}, size) if size else None


def _server_named(shape: Shape, choices: Choices) -> str | None:  # noqa: ARG001
    runtime = choices["runtime"]
    if runtime["name"] != SERVER or SERVER_NAME.fullmatch(str(runtime["server"])):
        return None
    return f"runtime.server {str(runtime['server'])!r} names no server; list one that the device's servers.json has."


def _one_type_in_torch(shape: Shape, choices: Choices) -> str | None:  # noqa: ARG001
    runtime = choices["runtime"]
    arithmetic, cache = runtime["inference_precision"], runtime["kv_cache_precision"]
    if runtime["name"] != "torch" or arithmetic == cache:
        return None
    return (
        f"runtime.kv_cache_precision {cache} is not the {arithmetic} of the arithmetic, in which torch keeps its "
        f"cache; list it with {arithmetic} alone (when: {{runtime.inference_precision: [{arithmetic}]}})."
    )


RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("pruning.ffn", "pruning.heads", "quantization.weights", "quantization.group_size"), _group_fits),
    (("pruning.vision_ffn", "pruning.vision_heads", "quantization.vision", "quantization.group_size"), _group_fits),
    (("quantization.projector", "quantization.group_size"), _group_fits),
    (("model.image_size",), _whole_patches),
    (("runtime.name", "runtime.server"), _server_named),
    (("runtime.name", "runtime.inference_precision", "runtime.kv_cache_precision"), _one_type_in_torch),
)
"""Rules with the knobs that each looks at: the model always belongs to them, other knobs stand at their defaults."""
