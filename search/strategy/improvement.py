"""What a candidate may add to the front, by the best first objective that is attained at each level of the others.

The front is the attainment surface ``best(g)``: the least first objective of any member that is nowhere above level g
in the other objectives. The hypervolume is the integral of ``reference - best`` over levels; it is taken exactly along
the first objective and on a grid along the others. All objectives are minimised.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from search.strategy.ground import Array

CELLS = {1: 128, 2: 16, 3: 7}
"""Levels per objective beyond the first, by how many there are."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A grid of levels of the objectives but the first: their upper corners, and each cell's width, area or volume.

    Shapes: ``corners`` (cells, objectives - 1), ``sizes`` (cells,), ``reference`` (objectives,).
    """

    corners: Array
    sizes: Array
    reference: Array

    @classmethod
    def of(cls, reference: Array, low: Array) -> "Levels":
        """Even levels from the least values that are likely, ``low`` (objectives - 1,), up to the reference."""
        others = reference[1:]
        if len(others) == 0:
            return cls(corners=np.zeros((1, 0)), sizes=np.ones(1), reference=reference)
        count = CELLS[len(others)]
        edges = [np.linspace(min(least, most - 1e-9), most, count + 1) for least, most in zip(low, others, strict=True)]
        middles = np.meshgrid(*((edge[1:] + edge[:-1]) / 2 for edge in edges), indexing="ij")
        widths = np.meshgrid(*(np.diff(edge) for edge in edges), indexing="ij")
        corners = np.stack([one.ravel() for one in middles], axis=1)
        return cls(corners=corners, sizes=np.prod([one.ravel() for one in widths], axis=0), reference=reference)

    def best(self, values: Array) -> Array:
        """(cells,) the attainment surface of these points, (points, objectives)."""
        best = np.full(len(self.sizes), self.reference[0])
        for point in values:
            inside = np.all(point[1:] <= self.corners, axis=1)
            best[inside] = np.minimum(best[inside], point[0])
        return best

    def expected(self, mean: Array, deviation: Array, best: Array) -> Array:
        """(candidates,) the expected gain in hypervolume of each, its objectives being independent normals.

        ``mean`` and ``deviation`` are (candidates, objectives). Of each cell: the probability to be within it times the
        expected improvement on its best value (Mockus 1978; Emmerich et al. 2011, CEC, for the product form).
        """
        sure = np.maximum(deviation, 1e-12)
        within = self.sizes[None, :]
        for k in range(1, mean.shape[1]):
            edges, where = np.unique(self.corners[:, k - 1], return_inverse=True)
            within = within * ndtr((edges[None, :] - mean[:, k : k + 1]) / sure[:, k : k + 1])[:, where]
        heights, where = np.unique(
            best, return_inverse=True
        )  # as many as the front has members, not as there are cells
        belongs = np.zeros((len(best), len(heights)))
        belongs[np.arange(len(best)), where] = 1.0
        gap = (heights[None, :] - mean[:, :1]) / sure[:, :1]
        gain = sure[:, :1] * (gap * ndtr(gap) + np.exp(-0.5 * gap * gap) / np.sqrt(2 * np.pi))
        return np.asarray(((within @ belongs) * gain).sum(axis=1), dtype=float)

    def attained(self, draws: Array) -> Array:
        """(draws, candidates, cells) the first objective where a candidate is within the cell, else the reference's."""
        inside = np.ones((*draws.shape[:2], len(self.sizes)), dtype=bool)
        for k in range(1, draws.shape[2]):
            inside &= draws[:, :, k, None] <= self.corners[None, None, :, k - 1]
        return np.where(inside, draws[:, :, 0, None], self.reference[0])
