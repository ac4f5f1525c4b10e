"""What a space holds and costs, worked out before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from hardware_profiles.profile import Profile
from spaces.axes import Axis, Value
from spaces.canonical import canonical_json
from spaces.estimate import CACHE_BYTES, Choices, Estimate, estimate
from spaces.knobs import Choices as Listed
from spaces.legality import shapes
from spaces.space import COUNTED, Space, grid


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model as pruned and quantized for one runtime.

    Attributes:
        knobs: the values that tell it from other settings, by full name.
        fits: device -> whether the least memory that its candidates need is there.
    """

    model: str
    knobs: dict[str, Value]
    estimate: Estimate
    fits: dict[str, bool]


def settings(space: Space, devices: Sequence[Profile]) -> list[Setting]:
    """The estimate of every model x pruning x quantization x runtime that occurs; the first ``COUNTED`` of them.

    The cache of one image counts with the fewest visual tokens and the narrowest type of the space: a lower bound.
    """
    known = shapes(space)
    names = [knob.name for knob in space.knobs if knob.name.split(".")[0] in ("model", "pruning", "quantization")]
    least = {"visual_tokens.keep": _least(space, "visual_tokens", "keep")}
    least["runtime.kv_cache_precision"] = _least(space, "runtime", "kv_cache_precision")
    found = []
    for values in islice(space.together([*names, "runtime.name"]), COUNTED):
        model = str(values["model.path"])
        choices: Choices = {axis.name: space.with_defaults({**least, **values}, axis.name) for axis in space.axes}
        one = estimate(known[model], choices)
        fits = {device.name: one.memory_bytes <= device.memory_bytes for device in devices}
        shown = {name: value for name, value in values.items() if name != "model.path"}
        found.append(Setting(model=model, knobs=shown, estimate=one, fits=fits))
    return found


def distinct(found: Sequence[Setting]) -> list[Setting]:
    """The settings with only the knobs that the estimates depend on, each once."""
    left = list(found)
    for name in dict.fromkeys(name for one in found for name in one.knobs):
        without = [replace(one, knobs={key: value for key, value in one.knobs.items() if key != name}) for one in left]
        estimates: dict[str, Setting] = {}
        for one in without:
            if estimates.setdefault(canonical_json([one.model, one.knobs]), one).estimate != one.estimate:
                break
        else:
            left = list(estimates.values())
    return left


def builds(space: Space) -> dict[str, int | None]:
    """How many different artifacts each stage makes over the whole space: candidates that agree up to it share one.

    Null where there are more than ``COUNTED``; of a continuous knob only the two ends count.
    """
    counts: dict[str, int | None] = {}
    for index, axis in enumerate(space.axes):
        upto = space.axes[: index + 1]
        names = [
            knob.name
            for knob in space.knobs
            for one in upto
            if knob.name.startswith(f"{one.name}.") and not one.domains[knob.name.split(".", 1)[1]].bound
        ]
        made = set()
        for values in space.together(names):
            if axis.changes(space.with_defaults(values, axis.name)):
                made.add(_prefix(space, upto, values))
            if len(made) > COUNTED:
                break
        if made:
            counts[axis.name] = len(made) if len(made) <= COUNTED else None
    return counts


def _prefix(space: Space, axes: Sequence[Axis], values: dict[str, Value]) -> str:
    stages = []
    for axis in axes:
        choice = space.with_defaults(values, axis.name)
        if axis.changes(choice):
            stages.append([axis.name, {name: choice[name] for name in choice if not axis.domains[name].bound}])
    return canonical_json(stages)


def _least(space: Space, axis: str, name: str) -> Value:
    """The value of a knob that needs the least memory, its default among them where it may not count."""
    knob = space.knob(f"{axis}.{name}")
    default = space.with_defaults({}, axis)[name]
    if knob is None:
        return default
    values = (*grid(knob), default) if knob.others else grid(knob)
    return min(values, key=lambda value: CACHE_BYTES[str(value)] if isinstance(value, str) else value)


def varying(space: Space) -> list[str]:
    """The names of the knobs that can have more than one value; the model always among them."""
    return [
        knob.name
        for knob in space.knobs
        if knob.name == "model.path" or not isinstance(knob, Listed) or len(knob.values) > 1
    ]
