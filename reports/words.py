"""Figures, intervals and configurations in words, the same in the terminal and in the report."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from objectives.registry import Objective, of_device
from objectives.trial import Figure, Trial
from spaces.axes import Value
from spaces.printable import printable

_HANDLED = (
    "model.path",
    "pruning.ffn",
    "pruning.heads",
    "pruning.layers",
    "pruning.vision_ffn",
    "pruning.vision_heads",
    "pruning.vision_layers",
    "pruning.importance",
    "tuning.method",
    "tuning.steps",
    "tuning.rank",
    "tuning.rate",
    "visual_tokens.keep",
    "visual_tokens.method",
    "quantization.weights",
    "quantization.group_size",
    "quantization.method",
    "quantization.ratio",
    "quantization.mode",
    "quantization.vision",
    "quantization.projector",
    "prompt.template",
    "prompt.hint",
    "prompt.exemplars",
    "prompt.exemplar_choice",
    "prompt.exemplar_order",
    "runtime.name",
    "runtime.server",
    "runtime.device",
    "runtime.threads",
    "runtime.inference_precision",
)

_NUMBERS = re.compile(r"[\d.,]+")
_PARTS = ("weights", "vision", "projector")
_METHODS = {
    "rtn": "",
    "awq": " by AWQ",
    "scale_estimation": " by scale estimation",
    "awq_scale_estimation": " by AWQ and scale estimation",
    "gptq": " by GPTQ",
}

STATES = {"pruned": "raced out"}
"""States of trials that are called otherwise for people: pruning is an axis, too."""

PREDICTED = "predicted, not measured"
MOST_SHOWN = 200
MOST_PARTS = 3
"""A slice field with more values than this has a table of its own instead of a few words or columns."""


def state_name(state: str) -> str:
    """A trial's state as a reader sees it."""
    return STATES.get(state, state)


def plural(number: int, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def model_path(candidate: Mapping[str, Value]) -> str:
    """The model's path: what tells one model from another."""
    return str(candidate.get("model.path", "model"))


def model_name(candidate: Mapping[str, Value], names: Mapping[str, str] | None = None) -> str:
    """What ``names`` (:func:`model_names`) calls the model, else the last part of its path."""
    path = model_path(candidate)
    return (names or {}).get(path) or PurePath(path).name


def model_names(paths: Iterable[str]) -> dict[str, str]:
    """Each path with the shortest end of it that no other of them has, in their order."""
    parts = {path: PurePath(path).parts for path in paths}

    def shortest(path: str) -> str:
        ends = [parts[path][-n:] for n in range(1, len(parts[path]) + 1)]
        alone = (end for end in ends if sum(other[-len(end) :] == end for other in parts.values()) == 1)
        return str(PurePath(*next(alone, (path,))))

    return {path: shortest(path) for path in parts}


def halves(trial: Trial) -> str:
    """Accuracy by each slice field of two or three values (``kept out 0.61 · known 0.95``); empty without such."""
    fields = [values for values in trial.slices.values() if 2 <= len(values) <= MOST_PARTS]
    return "; ".join(
        " · ".join(f"{value_name(value)} {_two_digits(figure)}" for value, figure in values.items())
        for values in fields
    )


def value_name(value: str) -> str:
    """A slice field's value as a reader sees it."""
    return value.replace("_", " ") or "none"


def describe(candidate: Mapping[str, Value], names: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """A configuration as short phrases in stage order, the model first; what changes nothing is left out.

    Knobs of axes that came as plug-ins are given as ``knob=value``; ``names`` as in :func:`model_name`.
    """
    parts = [
        model_name(candidate, names),
        _pruning(candidate),
        _tuning(candidate),
        _visual_tokens(candidate),
        *_quantization(candidate),
        *_prompt(candidate),
        *_runtime(candidate),
    ]
    others = [f"{name.partition('.')[2]}={value}" for name, value in candidate.items() if name not in _HANDLED]
    return tuple(printable(part, MOST_SHOWN) for part in [*parts, *others] if part)


def number(value: float | None, objective: Objective) -> str:
    """A value with the digits its size deserves; a dash where there is none."""
    if value is None:
        return "–"
    if not objective.unit:
        return f"{value:.3f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_unit(value: float | None, objective: Objective) -> str:
    """A value and its unit."""
    return f"{number(value, objective)} {objective.unit}".strip()


def interval(figure: Figure, objective: Objective) -> str:
    """The 95 % interval in brackets; empty where there is none or it has no width."""
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return ""
    return f"[{number(figure.low, objective)}, {number(figure.high, objective)}]"


def figure_of(trial: Trial, name: str) -> Figure:
    """A trial's figure; null where it was not measured."""
    return trial.figures.get(name, Figure(value=None))


def is_predicted(trial: Trial, objective: Objective) -> bool:
    """Whether a trial's figure stands in for one of a device that was not there to measure it."""
    return of_device(objective) and any(found.state == "predicted" for found in trial.devices.values())


def figures_of(trial: Trial, known: Mapping[str, Objective]) -> list[tuple[Objective, Figure]]:
    """The figures that a trial has, in the order of ``known``; those of abstention only where there was any."""
    silent = () if figure_of(trial, "abstention").value else ("abstention", "accuracy_answered")
    found = [(objective, figure_of(trial, name)) for name, objective in known.items() if name not in silent]
    return [(objective, figure) for objective, figure in found if figure.value is not None]


def floor_in_words(floor: float, objective: Objective) -> str:
    """A noise floor: in points for shares, in per cent for ratios, else in the objective's unit."""
    if objective.relative:
        return f"{100 * floor:.1f} %"
    return f"{floor:.3g} {objective.unit}" if objective.unit else f"{100 * floor:.1f} points"


def duration(seconds: float) -> str:
    """Seconds as ``8.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _pruning(c: Mapping[str, Value]) -> str:
    names = {"ffn": "FFN", "vision_ffn": "vision FFN"}
    parts = []
    for knob in ("ffn", "heads", "layers", "vision_ffn", "vision_heads", "vision_layers"):
        share = c.get(f"pruning.{knob}", 0)
        if isinstance(share, int | float) and share > 0:
            parts.append(f"{names.get(knob, knob.replace('_', ' '))} −{_percent(share)}")
    by = " by activations" if parts and c.get("pruning.importance") == "activations" else ""
    return ", ".join(parts) + by


def _tuning(c: Mapping[str, Value]) -> str:
    method = str(c.get("tuning.method", "none"))
    if method == "none":
        return ""
    name = {"lora": "LoRA", "dora": "DoRA", "full": "full tuning", "projector": "projector tuning"}.get(method, method)
    rank = f" rank {c['tuning.rank']}" if "tuning.rank" in c else ""
    steps = f", {c['tuning.steps']} steps" if "tuning.steps" in c else ""
    peak = c.get("tuning.rate", 0)
    rate = f", rate {peak:g}" if isinstance(peak, float) and peak > 0 else ""
    return f"{name}{rank}{steps}{rate}"


def _visual_tokens(c: Mapping[str, Value]) -> str:
    keep = c.get("visual_tokens.keep", 1)
    if not isinstance(keep, int | float) or keep >= 1:
        return ""
    method = f" by {c['visual_tokens.method']}" if "visual_tokens.method" in c else ""
    return f"{_percent(keep)} visual tokens{method}"


def _quantization(c: Mapping[str, Value]) -> list[str]:
    """The language model's weights, with what the group size and the mode hold for; then the other parts' bits."""
    parts = [_language(c)]
    parts += [f"{part} {c[f'quantization.{part}']}" for part in ("vision", "projector") if _quantized(c, part)]
    shown = [part for part in parts if part]
    if "quantization.group_size" in c and any(c.get(f"quantization.{part}") == "int4" for part in _PARTS):
        shown.append(f"groups of {c['quantization.group_size']}")
    if c.get("quantization.mode") == "asym" and any(_quantized(c, part) for part in _PARTS):
        shown.append("asymmetric")
    return shown


def _language(c: Mapping[str, Value]) -> str:
    weights, ratio = c.get("quantization.weights", ""), c.get("quantization.ratio", 1.0)
    if weights != "int4":
        return str(weights)
    method = _METHODS.get(str(c.get("quantization.method", "rtn")), f" by {c.get('quantization.method')}")
    share = f"{_percent(ratio)} " if isinstance(ratio, int | float) and ratio < 1 else ""
    return f"{share}int4{method}"


def _quantized(c: Mapping[str, Value], part: str) -> bool:
    return c.get(f"quantization.{part}", "fp16") != "fp16"


def _prompt(c: Mapping[str, Value]) -> list[str]:
    template = str(c.get("prompt.template", "{question}"))
    shown = "" if template == "{question}" else f"prompt “{template}”"
    hint = c.get("prompt.hint", False)
    told = "answer hint" if hint is True else f"hint {hint}" if hint not in (False, "none", "") else ""
    return [shown, told, _exemplars(c)]


def _exemplars(c: Mapping[str, Value]) -> str:
    count = c.get("prompt.exemplars", 0)
    if not count:
        return ""
    choice = f"{c['prompt.exemplar_choice']} " if "prompt.exemplar_choice" in c else ""
    reverse = ", reversed" if c.get("prompt.exemplar_order") == "reversed" else ""
    return f"{count} {choice}exemplar{'s' if count != 1 else ''}{reverse}"


def _runtime(c: Mapping[str, Value]) -> list[str]:
    name, precision = c.get("runtime.name", "openvino"), str(c.get("runtime.inference_precision", "f32"))
    threads = c.get("runtime.threads", 1)
    return [
        "" if name in ("", "openvino") else f"runtime {name} {c.get('runtime.server', '')}".rstrip(),
        "" if c.get("runtime.device", "cpu") == "cpu" else f"on {c['runtime.device']}",
        "" if precision == "f32" else precision,
        "" if threads == 1 else f"{threads} threads",
    ]


def _two_digits(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def by_kind(sentences: Iterable[str]) -> list[list[str]]:
    """Sentences that are alike up to their first colon or semicolon but for numbers, together; in order."""
    kinds: dict[str, list[str]] = {}
    for one in sentences:
        kinds.setdefault(_NUMBERS.sub("", re.split("[:;]", one)[0]), []).append(one)
    return list(kinds.values())
