"""What a space holds and costs, worked out before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from hardware_profiles.profile import Profile
from hardware_profiles.roofline import Prediction, predict
from spaces.axes import Axis, Value
from spaces.canonical import canonical_json
from spaces.estimate import CACHE_BYTES, Choices, Estimate, estimate
from spaces.knobs import Choices as Listed
from spaces.legality import shapes
from spaces.space import POINTS, Space, each_value, spread
from spaces.work import SERVED, work


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model as pruned and quantized for one runtime.

    Attributes:
        knobs: the values that tell it from other settings, by full name.
        fits: device -> whether the least memory that its candidates need is there.
        predicted: device -> latency and memory of those candidates that need least of both.
    """

    model: str
    knobs: dict[str, Value]
    estimate: Estimate
    fits: dict[str, bool]
    predicted: dict[str, Prediction]


LISTED = 2_000
"""At most so many settings are estimated."""
_WALKED = 10_000
"""Combinations of values that are looked at to count a stage's artifacts."""
_SAME = {"pruning.importance", "quantization.method"}
"""Knobs of estimated axes that change no estimate."""


def settings(space: Space, devices: Sequence[Profile]) -> tuple[list[Setting], bool]:
    """The estimate of every model x pruning x quantization x runtime that occurs, and whether that is all of them.

    Where there are more than ``LISTED``, numbers are thinned, evenly and with both ends, until so few are left.

    The cache of one image counts with the fewest visual tokens and the narrowest type of the space: a lower bound.
    """
    known = shapes(space)
    axes = ("model", "pruning", "quantization")
    names = [knob.name for knob in space.knobs if knob.name.split(".")[0] in axes and knob.name not in _SAME]
    least = {"visual_tokens.keep": _least(space, "visual_tokens", "keep")}
    least["runtime.kv_cache_precision"] = _least(space, "runtime", "kv_cache_precision")
    found = []
    combinations, whole = _thinned(space, [*names, "runtime.name", "runtime.device"])
    for values in combinations:
        model = str(values["model.path"])
        choices: Choices = {axis.name: space.with_defaults({**least, **values}, axis.name) for axis in space.axes}
        one = estimate(known[model], choices)
        runtime, asked = str(choices["runtime"]["name"]), work(known[model], choices)
        rooms = {device.name: device.room(runtime, asked.device) for device in devices}
        own = runtime == SERVED
        fits = {name: own or room is None or one.memory_bytes <= room for name, room in rooms.items()}
        predicted = {device.name: predict(asked, device, runtime) for device in devices}
        shown = {name: value for name, value in values.items() if name != "model.path"}
        found.append(Setting(model=model, knobs=shown, estimate=one, fits=fits, predicted=predicted))
    return found, whole


def _thinned(space: Space, names: Sequence[str]) -> tuple[list[dict[str, Value]], bool]:
    for most in (POINTS, 17, 9, 5, 3, 2):
        found = list(islice(space.together(names, partial(spread, most=most)), LISTED + 1))
        if len(found) <= LISTED:
            break
    walked = [(len(spread(knob, most)), knob) for knob in space.knobs if knob.name in names]
    whole = all(number == (len(knob.values) if isinstance(knob, Listed) else knob.count) for number, knob in walked)
    return found[:LISTED], whole and len(found) <= LISTED


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

    Null where there are too many to count; of a continuous knob only the two ends count.
    """
    counts: dict[str, int | None] = {}
    countable = True
    for index, axis in enumerate(space.axes):
        upto = space.axes[: index + 1]
        names = [
            knob.name
            for knob in space.knobs
            for one in upto
            if knob.name.startswith(f"{one.name}.") and not one.domains[knob.name.split(".", 1)[1]].bound
        ]
        if countable:
            walked = list(islice(space.together(names, each_value), _WALKED + 1))
            countable = len(walked) <= _WALKED
        if countable:
            changing = (one for one in walked if axis.changes(space.with_defaults(one, axis.name)))
            if made := {_prefix(space, upto, values) for values in changing}:
                counts[axis.name] = len(made)
            continue
        own = [name for name in names if name.startswith(f"{axis.name}.")]
        some = islice(space.together(own, partial(space.walked, most=3)), _WALKED)
        if any(axis.changes(space.with_defaults(values, axis.name)) for values in some):
            counts[axis.name] = None
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
    values = (*spread(knob, 2), default) if knob.others else spread(knob, 2)
    return min(values, key=lambda value: CACHE_BYTES[str(value)] if isinstance(value, str) else value)


def varying(space: Space) -> list[str]:
    """The names of the knobs that can have more than one value; the model always among them."""
    return [
        knob.name
        for knob in space.knobs
        if knob.name == "model.path" or not isinstance(knob, Listed) or len(knob.values) > 1
    ]
