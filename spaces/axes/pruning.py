"""The axis of pruning: narrower FFNs, fewer heads and layers, in the language model and the vision tower."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spaces.axes import Choice, Domain, Samples
from spaces.axes.checkpoint import load_strict, save
from spaces.axes.layout import Layout
from spaces.axes.pruning_importance import Importance, OfActivations, OfWeights
from spaces.axes.pruning_parts import ffns, heads, keep_layers, pooling_ffns, strongest, text_layers, vision_layers
from spaces.axes.pruning_shape import feature_depth, moved_feature_layer, pruned_shape
from spaces.axes.quiet import quiet
from spaces.axes.supervised import Example, examples
from spaces.errors import StageFailed
from spaces.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear

SHARES = ("ffn", "heads", "layers", "vision_ffn", "vision_heads", "vision_layers")
CALIBRATION_LIMIT = 128


def _removed(what: str) -> Domain:
    return Domain(kind="float", default=0.0, low=0.0, high=0.9, help=f"share of {what} removed")


class Pruning:
    """Knobs for the share removed: ``ffn``, ``heads``, ``layers`` of the language model, ``vision_*`` of the tower.

    What has the least ``importance`` goes: `OfWeights`, or `OfActivations` on at most 128 samples of the split
    ``calibration``. All scores are those of the model as it comes. Channels and heads go layer by layer, as many from
    each; the rest keeps its order. `pruned_shape` says how much is left.

    The heads of a language model go by whole key-value groups, to a count that its architecture loads (`kept_heads`).
    Those of a vision tower stay in the checkpoint as zeros, which no gradient moves, and are left out of the export
    (`spaces.axes.dead_heads`). Vision layers that no visual feature is read after are neither scored nor removed.
    """

    name = "pruning"
    version = 2
    tools: tuple[str, ...] = ("torch", "transformers", "safetensors", "tokenizers", "pillow")
    domains: Mapping[str, Domain] = MappingProxyType(
        {
            "ffn": _removed("FFN channels of every layer of the language model"),
            "heads": _removed("key-value heads, with their query heads, of every layer of the language model"),
            "layers": _removed("layers of the language model"),
            "vision_ffn": _removed("FFN channels of every layer of the vision tower"),
            "vision_heads": _removed("attention heads of every layer of the vision tower"),
            "vision_layers": _removed("layers of the vision tower"),
            "importance": Domain(
                kind="choice",
                default="weights",
                values=("weights", "activations"),
                unless_all=dict.fromkeys(SHARES, (0.0,)),
                help="what decides which parts go",
            ),
        }
    )

    def changes(self, choice: Choice) -> bool:
        return any(float(choice.get(knob, 0)) > 0 for knob in SHARES)

    def reads(self, choice: Choice) -> tuple[str, ...]:
        return ("calibration",) if self.changes(choice) and choice["importance"] == "activations" else ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Writes an ordinary checkpoint with a smaller config. Byte-deterministic for one torch and thread count.

        Raises:
            StageFailed: the model has no such parts, its architecture does not load with fewer of them, there are no
                calibration samples, or the checkpoint does not load strictly.
        """
        chosen = samples.get("calibration", ())[:CALIBRATION_LIMIT]
        by_activations = choice["importance"] == "activations"
        if by_activations and not chosen:
            raise StageFailed("pruning.importance activations needs the split `calibration`, and the task has none.")
        model = load_strict(source, "float32" if by_activations else "float16")
        left = pruned_shape(_config(model), choice)
        with quiet("transformers"):
            importance = _of_activations(model, source, chosen, choice) if by_activations else OfWeights()
            _prune_text(model, choice, left, importance)
            _prune_vision(model, choice, left, importance)
            _check_fit(model)
        save(model, source, target)


def _of_activations(model: Any, source: Path, chosen: Sequence[Sample], choice: Choice) -> OfActivations:
    reads: list[Linear] = []
    layers: list[Any] = []
    for prefix, part in (("", text_layers), ("vision_", vision_layers)):
        if _share(choice, f"{prefix}ffn"):
            reads += [ffn.out for ffn in ffns(part(model))]
            reads += [ffn.out for ffn in pooling_ffns(model)] if prefix else []
        if _share(choice, f"{prefix}heads"):
            reads += [attention.out for attention in heads(part(model))]
        if _share(choice, f"{prefix}layers"):
            layers += part(model)
    layout = Layout(source)
    return OfActivations(model, _with_pixels(layout, examples(layout, chosen)), reads, layers)


def _with_pixels(layout: Layout, rows: Sequence[Example]) -> "Iterator[tuple[Example, Tensor]]":
    import torch

    for row in rows:
        yield row, torch.from_numpy(layout.pixels([row.image]))


def _prune_text(model: Any, choice: Choice, left: Mapping[str, int], importance: Importance) -> None:
    layers, config = text_layers(model), model.config.text_config
    kept = _kept_layers(layers, left["layers"], importance) if _share(choice, "layers") else None
    if _share(choice, "heads"):
        for attention in heads(layers):
            count = left["kv_heads"] if attention.groups > 1 else left["heads"]
            attention.narrow(strongest(importance.units(attention), count))
        config.head_dim = left["head_dim"]
        config.num_attention_heads, config.num_key_value_heads = left["heads"], left["kv_heads"]
    if _share(choice, "ffn"):
        for ffn in ffns(layers):
            ffn.narrow(strongest(importance.channels(ffn), left["ffn"]))
        config.intermediate_size = left["ffn"]
    if kept is not None:
        _drop_layers(layers, config, kept)


def _prune_vision(model: Any, choice: Choice, left: Mapping[str, int], importance: Importance) -> None:
    if not any(_share(choice, knob) for knob in SHARES if knob.startswith("vision_")):
        return
    layers, config = vision_layers(model), model.config.vision_config
    used = feature_depth(_config(model))
    unused = range(used, len(layers))
    kept = None
    if _share(choice, "vision_layers"):
        kept = [*_kept_layers(layers[:used], left["vision_layers"] - len(unused), importance), *unused]
    if _share(choice, "vision_heads"):
        for attention in heads(layers):
            attention.kill_others(strongest(importance.units(attention), left["vision_heads"]))
    if _share(choice, "vision_ffn"):
        for ffn in [*ffns(layers), *pooling_ffns(model)]:
            ffn.narrow(strongest(importance.channels(ffn), left["vision_ffn"]))
        config.intermediate_size = left["vision_ffn"]
    if kept is not None:
        model.config.vision_feature_layer = moved_feature_layer(_config(model), kept)
        _drop_layers(layers, config, kept)


def _kept_layers(layers: Any, count: int, importance: Importance) -> list[int]:
    import torch

    parts = zip(layers, heads(layers), ffns(layers), strict=True)
    scores = [importance.layer(layer, attention, ffn) for layer, attention, ffn in parts]
    return [int(number) for number in strongest(torch.tensor(scores, dtype=torch.float64), count)]


def _drop_layers(layers: Any, config: Any, kept: Sequence[int]) -> None:
    count = len(layers)
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[number] for number in kept])
    keep_layers(layers, kept)
    config.num_hidden_layers = len(kept)


def _check_fit(model: Any) -> None:
    """The pruned model must be what its config builds: shapes are compared without memory for weights."""
    import torch

    config = type(model.config)
    try:
        with torch.device("meta"):
            expected = type(model)(config.from_dict(model.config.to_dict())).state_dict()
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise StageFailed(f"{model.config.text_config.model_type} does not load when pruned so: {reason}") from error
    for name, weight in model.state_dict().items():
        if name not in expected or expected[name].shape != weight.shape:
            raise StageFailed(f"{name} cannot be pruned so: the architecture gives it a shape that its config lacks.")


def _config(model: Any) -> dict[str, Any]:
    return dict(model.config.to_dict())


def _share(choice: Choice, knob: str) -> float:
    return float(choice.get(knob, 0.0))


AXIS = Pruning()
