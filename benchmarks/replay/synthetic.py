"""Tables made from a seed, for development and tests: a plausible family of models, never a recorded one.

A family's items have a difficulty, its candidates an ability; an item is answered rightly where ability plus what the
item and the candidate's knobs have to do with each other exceeds its difficulty (a probit response model: Lord & Novick
1968, Statistical Theories of Mental Test Scores). So candidates that share knobs err on the same items. Main effects go
the way that they go in practice; how strong they are, and what each pair of knobs adds, is drawn from the seed, so that
another combination wins in each table.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replay.header import Direction, Value
from replay.table import Table

Array = npt.NDArray[np.float64]

KNOBS: Mapping[str, tuple[Value, ...]] = {
    "size": (1.0, 2.5, 6.0, 15.0),  # millions of parameters
    "pruning": (0.0, 0.25, 0.5, 0.75),  # share of channels removed
    "tuning": (0, 60, 180),  # steps
    "rank": ("low", "high"),  # of the adapter: counts where tuned
    "bits": (16, 8, 4, 3),
    "group": (32, 64),  # of the quantizer's scales: counts below 8 bits
    "tokens": (16, 12, 8),
    "prompt": ("plain", "terse", "steps", "role"),
}
STAGE_KNOBS: Mapping[str, tuple[str, ...]] = {
    "prune": ("size", "pruning"),
    "tune": ("tuning", "rank"),
    "export": ("tokens",),
    "quantize": ("bits", "group"),
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a trial costs on average, in seconds, and how noisy its latency is.

    Attributes:
        tuning: of the stages prune and tune.
        export: of the stages export and quantize.
        scoring: of all items.
        measure: of one measurement.
        noise: the standard deviation of the logarithm of the recorded latency.
    """

    tuning: float = 17.0
    export: float = 6.0
    scoring: float = 0.7
    measure: float = 1.5
    noise: float = 0.01


VARIANTS: Mapping[str, Costs] = {
    "usual": Costs(),
    "cheap tuning": Costs(tuning=1.0),
    "expensive scoring": Costs(scoring=30.0),
    "noise free": Costs(noise=0.0),
    "noisy latency": Costs(noise=0.05),
}


def family(seed: int, costs: Costs = VARIANTS["usual"], items: int = 400) -> Table:
    """Some 6,000 candidates with accuracy, latency and size; as many items to search by as are held out."""
    rng = np.random.default_rng(seed)
    codes = _codes()
    of = {name: codes[:, k] for k, name in enumerate(KNOBS)}
    number = {
        name: np.array([*map(float, KNOBS[name]), 0.0])[of[name]] for name in ("size", "pruning", "tuning", "tokens")
    }
    number["bits"] = np.array(KNOBS["bits"], dtype=float)[of["bits"]]
    ability = _ability(rng, codes, number)
    answers = [_answers(rng, codes, ability, items) for _ in range(2)]
    state, reason = _states(rng, of, number)
    ok = state == "ok"
    latency, size = _latency(rng, codes, number, costs.noise), _size(number, of)
    accuracy = answers[0].mean(axis=1)
    stages, load_s, item_s, measure_s = _costs(rng, number, codes, latency, items, costs)
    stages[state == "failed", 3] *= 0.2  # the quantizer refuses early
    values = np.where(ok[:, None], np.stack([accuracy, latency, size], axis=1), np.nan)
    objectives: dict[str, Direction] = {"accuracy": "max", "latency_ms": "min", "size_mb": "min"}
    return Table(
        task=f"synthetic family, seed {seed}",
        device="none: made up",
        items=items,
        holdout_items=items,
        knobs=KNOBS,
        stages=tuple(STAGE_KNOBS),
        stage_knobs=STAGE_KNOBS,
        objectives=objectives,
        reference={
            "accuracy": float(np.quantile(accuracy[ok], 0.3)),
            "latency_ms": float(latency[ok].max()),
            "size_mb": float(size[ok].max()),
        },
        floor={"accuracy": 0.005, "latency_ms": max(0.01, costs.noise), "size_mb": 0.001},
        hints={
            "size": {"ordered": True, "accuracy": "up", "latency_ms": "up", "size_mb": "up"},
            "pruning": {"ordered": True, "accuracy": "down", "latency_ms": "down", "size_mb": "down"},
            "tuning": {"ordered": True, "accuracy": "up"},
            "bits": {"ordered": True, "accuracy": "down", "size_mb": "down"},
            "tokens": {"ordered": True, "accuracy": "down", "latency_ms": "down"},
        },
        codes=codes,
        state=state,
        reason=reason,
        costs=stages,
        load_s=np.where(ok, load_s, 0.0),
        item_s=np.where(ok, item_s, 0.0),
        measure_s=np.where(ok, measure_s, 0.0),
        values=values,
        packed=np.packbits(answers[0], axis=1),
        packed_holdout=np.packbits(answers[1], axis=1),
    )


def _codes() -> npt.NDArray[np.int16]:
    """Every combination; -1 for a rank without tuning and a group where the quantizer has none."""
    grid = np.array(list(itertools.product(*(range(len(values)) for values in KNOBS.values()))), dtype=np.int16)
    names = list(KNOBS)
    grid[grid[:, names.index("tuning")] == 0, names.index("rank")] = -1
    grid[grid[:, names.index("bits")] < 2, names.index("group")] = -1
    return np.unique(grid, axis=0)


def _ability(rng: np.random.Generator, codes: npt.NDArray[np.int16], number: Mapping[str, Array]) -> Array:
    """(rows,) in units of the spread of difficulties."""
    grown = np.log(number["size"]) / np.log(15.0)
    found = rng.uniform(0.8, 1.6) * grown ** rng.uniform(0.6, 1.2)
    spoiled = rng.uniform(1.2, 2.5) * number["pruning"] ** rng.uniform(1.2, 2.2) * rng.uniform(1.0, 1.4) ** (1 - grown)
    healed = (number["tuning"] / 180) ** rng.uniform(0.2, 0.6)
    found += -spoiled * (1 - rng.uniform(0.6, 0.85) * healed) + rng.uniform(-0.05, 0.25) * healed
    coarse = np.maximum(0.0, 8 - number["bits"]) / 5
    found -= rng.uniform(0.3, 1.2) * coarse ** rng.uniform(1.5, 2.5) * (1.3 - grown)
    found -= rng.uniform(0.2, 0.8) * (1 - number["tokens"] / 16) ** rng.uniform(1.0, 1.8)
    names = list(KNOBS)
    for name, spread in (("rank", 0.05), ("group", 0.06), ("prompt", 0.15)):
        effects = np.append(rng.normal(0, spread, len(KNOBS[name])), 0.0)
        found += effects[codes[:, names.index(name)]]
    for first, second in itertools.combinations(range(len(names)), 2):
        effects = rng.normal(0, 0.06, (len(KNOBS[names[first]]) + 1, len(KNOBS[names[second]]) + 1))
        found += effects[codes[:, first], codes[:, second]]
    return np.asarray(found)


def _answers(
    rng: np.random.Generator, codes: npt.NDArray[np.int16], ability: Array, items: int
) -> npt.NDArray[np.bool_]:
    """(rows, items): what an item has to do with a knob's value is drawn once, so candidates that share it agree."""
    shares = (0.6, 0.3, 0.3, 0.1, 0.2, 0.1, 0.3, 0.3)  # of each knob, in the order of KNOBS
    latent = np.repeat(ability[:, None].astype(np.float32), items, axis=1)
    for k, (values, share) in enumerate(zip(KNOBS.values(), shares, strict=True)):
        latent += rng.normal(0, share, (len(values) + 1, items)).astype(np.float32)[codes[:, k]]
    latent += rng.normal(0, 0.3, latent.shape).astype(np.float32)
    return np.asarray(latent > rng.normal(-0.3, 1.0, items).astype(np.float32))


def _states(
    rng: np.random.Generator, of: Mapping[str, npt.NDArray[np.int16]], number: Mapping[str, Array]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """The widest groups do not divide the most pruned widths; the largest models do not fit; a few fail anyway."""
    state = np.full(len(number["size"]), "ok", dtype="<U10")
    reason = np.full(len(state), "", dtype="<U40")
    large = number["size"] * (1 - 0.6 * number["pruning"]) * number["bits"] > 15 * 16 * rng.uniform(0.7, 0.95)
    state[large], reason[large] = "infeasible", "more memory than the device has"
    odd = (of["group"] == 1) & (of["pruning"] == rng.integers(1, 4))
    state[odd], reason[odd] = "failed", "the group does not divide the width"
    unlucky = (state == "ok") & (rng.random(len(state)) < 0.005)
    state[unlucky], reason[unlucky] = "failed", "the quantizer did not converge"
    return state, reason


def _latency(
    rng: np.random.Generator, codes: npt.NDArray[np.int16], number: Mapping[str, Array], noise: float
) -> Array:
    """(rows,) milliseconds; tuning leaves no trace in the deployed graph, and equal graphs have equal latency."""
    work = number["size"] * (1 - rng.uniform(0.5, 0.8) * number["pruning"])
    fetched = 0.25 + 0.75 * (number["bits"] / 16) ** rng.uniform(0.3, 0.8)
    words = np.array([1.0, rng.uniform(0.75, 0.9), rng.uniform(1.2, 1.8), rng.uniform(1.05, 1.2)])
    asked = 0.3 + 0.7 * number["tokens"] / 16 * words[codes[:, list(KNOBS).index("prompt")]]
    plain = rng.uniform(0.4, 1.2) + rng.uniform(1.0, 2.0) * work**0.9 * fetched * asked
    reach = [k for k, name in enumerate(KNOBS) if name not in ("tuning", "rank")]
    graphs = np.unique(codes[:, reach], axis=0, return_inverse=True)[1].reshape(-1)
    return np.asarray(plain * np.exp(rng.normal(0, noise, graphs.max() + 1)[graphs]))


def _size(number: Mapping[str, Array], of: Mapping[str, npt.NDArray[np.int16]]) -> Array:
    """(rows,) megabytes: the weights, the quantizer's scales and what is never quantized."""
    scales = np.select([of["group"] == 0, of["group"] == 1], [16 / 32, 16 / 64], 0.0)
    return np.asarray(0.4 + number["size"] * (1 - 0.6 * number["pruning"]) * (number["bits"] + scales) / 8)


def _costs(
    rng: np.random.Generator,
    number: Mapping[str, Array],
    codes: npt.NDArray[np.int16],
    latency: Array,
    items: int,
    costs: Costs,
) -> tuple[Array, Array, Array, Array]:
    """The stages' seconds (rows, stages), and (rows,) for loading, one item and one measurement."""
    size = number["size"]
    stages = np.stack(
        [
            (number["pruning"] > 0) * (0.5 + 0.1 * size),
            number["tuning"] * (0.5 + size * (1 - 0.5 * number["pruning"])) ** 0.8,
            1.0 + 0.15 * size + 0.05 * number["tokens"],
            (number["bits"] < 16) * (0.5 + 0.1 * size) * np.where(number["bits"] < 8, 2.0, 1.0),
        ],
        axis=1,
    )
    columns: list[int] = []
    names = list(KNOBS)
    for k, knobs in enumerate(STAGE_KNOBS.values()):
        columns += [names.index(knob) for knob in knobs]
        built = np.unique(codes[:, columns], axis=0, return_inverse=True)[1].reshape(-1)
        stages[:, k] *= np.exp(rng.normal(0, 0.1, built.max() + 1))[built]
    stages[:, :2] *= costs.tuning / stages[:, :2].sum(axis=1).mean()
    stages[:, 2:] *= costs.export / stages[:, 2:].sum(axis=1).mean()
    item_s = latency / latency.mean() * costs.scoring / items
    measure_s = costs.measure * (0.5 + 0.5 * latency / latency.mean())
    return stages, np.full(len(size), 0.15), item_s, measure_s
