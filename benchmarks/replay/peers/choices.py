"""The joint space of a recorded table as knobs to choose one by one, conditional ones included."""

from collections.abc import Callable, Mapping

import numpy as np

from replay.engine import Ground


class Choices:
    """Turns a peer's choice of knob values into a candidate of the table.

    Knobs that always count come first, then the conditional ones, those that count more often before the others, so
    that whether a knob counts is settled by the knobs before it.

    Attributes:
        knobs: names in the order in which they are chosen, of those with several values.
        sizes: knob -> how many values it has; a choice is a code in ``range(size)``.
        ordered: the knobs whose codes are an order.
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        names = list(ground.knobs)
        absent = (ground.codes < 0).sum(axis=0)
        several = [column for column, values in enumerate(ground.knobs.values()) if len(values) > 1]
        columns = sorted(several, key=lambda column: (absent[column], column))
        self.knobs = [names[column] for column in columns]
        self.codes = ground.codes[:, columns]
        self.sizes = {knob: len(ground.knobs[knob]) for knob in self.knobs}
        self.ordered = frozenset(knob for knob in self.knobs if ground.hints.get(knob, {}).get("ordered"))
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.codes)

    def row(self, pick: Callable[[str], int]) -> int:
        """The candidate that a peer means, or the nearest one where the table holds no such candidate.

        ``pick`` is asked, knob by knob, for the code of each knob that counts given the ones before it.
        """
        rows = np.arange(len(self.codes))
        picked: dict[str, int] = {}
        legal = True
        for column, knob in enumerate(self.knobs):
            codes = self.codes[rows, column]
            if (codes < 0).all():
                continue
            picked[knob] = int(pick(knob))
            same = rows[codes == picked[knob]]
            legal = legal and same.size > 0
            rows = same if same.size else rows
        return int(rows[0]) if legal else self._nearest(picked)

    def chosen(self, row: int) -> dict[str, int]:
        """Knob -> code in a candidate, of the knobs that count."""
        return {knob: int(code) for knob, code in zip(self.knobs, self.codes[row], strict=True) if code >= 0}

    def filled(self, row: int) -> dict[str, int]:
        """As ``chosen``, with the first value for a knob that does not count: for a peer whose space is flat."""
        return dict.fromkeys(self.knobs, 0) | self.chosen(row)

    def _nearest(self, picked: Mapping[str, int]) -> int:
        """Fewest knobs changed, an ordered one by its share of the range; ties are broken at random."""
        distance = np.zeros(len(self.codes))
        for column, knob in enumerate(self.knobs):
            if knob in picked:
                codes = self.codes[:, column]
                steps = np.abs(codes - picked[knob])
                apart = steps / max(self.sizes[knob] - 1, 1) if knob in self.ordered else steps > 0
                distance += np.where(codes < 0, 0.0, apart)
        return int(self._random.choice(np.flatnonzero(distance <= distance.min() + 1e-9)))
