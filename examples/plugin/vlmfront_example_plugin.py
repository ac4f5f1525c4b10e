"""One plug-in of each kind. Each is small enough to read, and does something that somebody may want."""

import html
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal

from hardware_profiles.bundle import Bundle
from hardware_profiles.runtimes.torch import TorchRuntime, TorchSession
from objectives.registry import Outcome
from objectives.run import RunFolder
from objectives.trial import Figure
from spaces.axes import Choice, Domain, Samples
from spaces.axes.files import link_all, read_json, write_json

PREPROCESSOR = "preprocessor_config.json"
FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers


class Resample:
    """An axis: knob ``filter``, with which images are scaled to the model's size. Bilinear is cheaper than bicubic."""

    name = "resample"
    version = 1
    tools: tuple[str, ...] = ()
    domains: Mapping[str, Domain] = MappingProxyType(
        {"filter": Domain(kind="choice", default="as_is", values=("as_is", *FILTERS), help="filter that scales images")}
    )

    def changes(self, choice: Choice) -> bool:
        return choice["filter"] != "as_is"

    def reads(self, choice: Choice) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, choice: Choice, source: Path, target: Path, samples: Samples, seed: int) -> None:  # noqa: ARG002
        """Links the artifact, with another filter in its preprocessor's settings."""
        link_all(source, target, sorted(path.name for path in source.iterdir() if path.name != PREPROCESSOR))
        settings = read_json(source / PREPROCESSOR)
        write_json(target / PREPROCESSOR, settings | {"resample": FILTERS[str(choice["filter"])]})


RESAMPLE = Resample()


class EagerTorchRuntime(TorchRuntime):
    """A runtime: the torch one with plain attention instead of torch's fused kernels."""

    name = "torch_eager"

    def load(self, bundle: Bundle) -> TorchSession:
        session = super().load(bundle)
        session._model.set_attn_implementation("eager")
        return session


@dataclass(frozen=True)
class AnswerLength:
    """An objective: the mean length of the answers in characters, for who has to display or transmit them."""

    name: str = "answer_length"
    label: str = "Answer length"
    unit: str = "characters"
    direction: Literal["max", "min"] = "min"
    relative: bool = False

    def figure(self, outcome: Outcome) -> Figure:
        lengths = [len(answer) for answer in outcome.answers]
        return Figure(value=fmean(lengths), n=len(lengths)) if lengths else Figure(value=None)


ANSWER_LENGTH = AnswerLength()


def halton(seed: int) -> Any:
    """A sampler: points of a Halton sequence, spread evenly over the space whatever the trials say."""
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(
            qmc_type="halton",
            scramble=True,
            seed=seed,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )


class StageCosts:
    """A report section: what building cost, stage by stage."""

    title = "Seconds spent on stages"

    def render(self, run: RunFolder) -> str:
        seconds: defaultdict[str, float] = defaultdict(float)
        for trial in run.read_trials():
            for stage in trial.stages:
                seconds[stage.name] += 0.0 if stage.reused else stage.seconds
        rows = [f"<tr><td>{html.escape(name)}</td><td>{spent:.1f}</td></tr>" for name, spent in sorted(seconds.items())]
        return f"<table><tr><th>Stage</th><th>Seconds</th></tr>{''.join(rows)}</table>"


STAGE_COSTS = StageCosts()
