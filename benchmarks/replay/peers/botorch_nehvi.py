"""BoTorch's qLogNEHVI over the candidates of the table, as its multi-objective tutorial sets it up.

A Gaussian process per objective, with the package's default kernel, priors and standardisation, on knobs encoded as
numbers: an ordered one as its rank in [0, 1], any other one-hot, and nothing where a knob does not count. The first
``2 * (knobs + 1)`` candidates are random, the tutorial's number. As the space is finite, the acquisition is maximised
with ``optimize_acqf_discrete`` over the candidates not tried yet, at most ``SAMPLED`` of them at a time. A candidate
that cannot be built or run is left out of the models.
"""

import warnings
from contextlib import suppress

import numpy as np

from replay.engine import Ground
from replay.peers.choices import Choices
from replay.peers.environment import needs
from replay.peers.whole_trials import Losses, WholeTrials, losses

with needs("botorch"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling.normal import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

SAMPLED = 2048  # candidates that a suggestion chooses among


class NEHVI:
    """Candidates by noisy expected hypervolume improvement."""

    def __init__(self, ground: Ground, seed: int) -> None:
        torch.manual_seed(seed)
        self._random = np.random.default_rng(seed)
        choices = Choices(ground, seed)
        self._features = torch.tensor(_encode(choices), dtype=torch.double)
        self._reference = torch.tensor([-worst for worst in losses(ground, dict(ground.reference))], dtype=torch.double)
        self._untried = self._random.permutation(len(choices)).tolist()
        self._first = 2 * (len(choices.knobs) + 1)
        self._rows: list[int] = []
        self._gains: list[list[float]] = []
        self._latest = -1
        self._seed = seed

    def suggest(self, choices: Choices) -> int:  # noqa: ARG002
        row = self._untried[-1] if len(self._gains) < self._first else self._best()
        self._untried.remove(row)
        self._latest = row
        return row

    def take(self, choices: Choices, row: int) -> None:
        """Never called: no candidate comes twice."""

    def learn(self, losses: Losses | None) -> None:
        if losses is not None:
            self._rows.append(self._latest)
            self._gains.append([-loss for loss in losses])

    def _best(self) -> int:
        known = self._features[self._rows]
        model = self._fit(known, torch.tensor(self._gains, dtype=torch.double))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=self._reference,
            X_baseline=known,
            prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([128]), seed=self._seed),
        )
        size = min(SAMPLED, len(self._untried))
        rows = self._random.choice(self._untried, size, replace=False)
        choices = self._features[rows]
        with torch.no_grad():
            best, _ = optimize_acqf_discrete(acquisition, q=1, choices=choices, max_batch_size=128)
        return int(rows[int((choices == best).all(dim=1).nonzero()[0, 0])])

    def _fit(self, known: torch.Tensor, gains: torch.Tensor) -> ModelListGP:
        model = ModelListGP(*(SingleTaskGP(known, gains[:, [column]]) for column in range(gains.shape[1])))
        with suppress(ModelFittingError):  # then the priors' hyperparameters serve for this suggestion
            fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        return model


def _encode(choices: Choices) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(candidates, features) in [0, 1]; 0 in all features of a knob that does not count."""
    columns = []
    for column, knob in enumerate(choices.knobs):
        codes, size = choices.codes[:, column], choices.sizes[knob]
        if knob in choices.ordered:
            columns.append(np.where(codes < 0, 0.0, codes / max(size - 1, 1)))
            if (codes < 0).any():
                columns.append((codes >= 0).astype(float))
        else:
            columns.extend((codes == code).astype(float) for code in range(size))
    return np.column_stack(columns)


def nehvi(ground: Ground, seed: int) -> WholeTrials:
    """Noisy expected hypervolume improvement with sampled candidates."""
    return WholeTrials(ground, NEHVI(ground, seed), seed)
