"""Where samplers come from: Optuna's, installed plug-ins, and ``module:attr`` in a search file.

A sampler is any ``optuna.samplers.BaseSampler``; an extension is a function that makes one from a seed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, TypeAlias

import optuna

from spaces.axes import Value
from spaces.errors import BadInput
from spaces.references import load_reference

GROUP = "vlmfront.samplers"
MakeSampler: TypeAlias = Callable[[int], Any]
"""From a seed below 2**32 to an ``optuna.samplers.BaseSampler``; the same seed has to draw the same values."""

BUILT_IN: Mapping[str, MakeSampler] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def names() -> tuple[str, ...]:
    """Every sampler that can be named: the built-in ones, then those of installed plug-ins."""
    return tuple(dict.fromkeys((*BUILT_IN, *(point.name for point in entry_points(group=GROUP)))))


def find(name: str) -> MakeSampler:
    """The maker of a sampler: a name of `names`, or ``module:attr``.

    Raises:
        BadInput: there is none of that name, it cannot be loaded, or it makes no sampler.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None and ":" not in name:
        raise BadInput(f"there is no sampler {name!r}; there are {', '.join(names())}, or write module:attr.")
    make: MakeSampler = load_reference("sampler", point or name, _flaw)
    return make


def _flaw(make: Any) -> str:
    made = make(0)
    sound = isinstance(made, optuna.samplers.BaseSampler)
    return "" if sound else f"it makes a {type(made).__name__}, not an optuna.samplers.BaseSampler"


class Distinct(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """A sampler whose joint draws go through ``distinct``, which gives something untried in place of what was tried.

    Whatever the sampler does wrong becomes one sentence (BadInput); what the disk refuses stays an OSError.
    """

    def __init__(self, name: str, seed: int, distinct: Callable[[Mapping[str, Value]], Mapping[str, Value]]) -> None:
        self._name = name
        self._distinct = distinct
        make = find(name)
        with self._blamed():
            self._inner = make(seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        with self._blamed():
            return dict(self._inner.infer_relative_search_space(study, trial))

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        with self._blamed():
            drawn = dict(self._inner.sample_relative(study, trial, search_space))
            for name, value in drawn.items():
                search_space[name].to_internal_repr(value)  # raises for what is no value of this knob
        return dict(self._distinct(drawn)) if drawn else {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        with self._blamed():
            drawn = self._inner.sample_independent(study, trial, param_name, param_distribution)
            param_distribution.to_internal_repr(drawn)
            return drawn

    def before_trial(self, study: Any, trial: Any) -> None:
        with self._blamed():
            self._inner.before_trial(study, trial)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        with self._blamed():
            self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        with self._blamed():
            self._inner.reseed_rng()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise BadInput(f"the sampler {self._name!r} broke ({why}): correct it, or name another one.") from error
