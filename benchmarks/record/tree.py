"""The rows of a recording in the order of the stage tree, and which artifacts are still needed on the way."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def tree_order(paths: Sequence[Sequence[Hashable]]) -> list[int]:
    """The rows so that those with a common beginning of their path follow each other, else as they are given.

    ``paths``: of each row, the keys of its stages; a key stands for all stages up to it.
    """
    first: dict[Hashable, int] = {}
    for path in paths:
        for key in path:
            first.setdefault(key, len(first))
    return sorted(range(len(paths)), key=lambda row: [first[key] for key in paths[row]])


class Needed:
    """Counts how many rows to come need an artifact."""

    def __init__(self, paths: Iterable[Sequence[str]]) -> None:
        self._count = Counter(key for path in paths for key in path)

    def __contains__(self, key: str) -> bool:
        return self._count[key] > 0

    def done(self, path: Sequence[str]) -> list[str]:
        """A row is finished: the keys on its path that no other row needs."""
        self._count.subtract(path)
        return [key for key in path if not self._count[key]]
