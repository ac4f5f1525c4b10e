"""The environments in which the peers run: each its own package, apart from the project's."""

from collections.abc import Iterator
from contextlib import contextmanager


class PeerMissing(Exception):
    """The package of a peer is not installed; its message says how to make the environment."""


@contextmanager
def needs(package: str, lock: str = "benchmarks/peers.lock") -> Iterator[None]:
    """Imports of a peer's package.

    Raises:
        PeerMissing: the package or a part of it is absent.
    """
    try:
        yield
    except ImportError as error:
        raise PeerMissing(
            f"{package} is not installed ({error}): the first lines of {lock} make its environment"
        ) from error
