"""The environments in which the peers run, apart from the project's own."""

from collections.abc import Iterator
from contextlib import contextmanager


class PeerMissing(ImportError):
    """The package of a peer is not installed; its message says how to make the environment."""


@contextmanager
def needs(package: str, lock: str = "peers.lock") -> Iterator[None]:
    """Imports of a peer's package.

    Raises:
        PeerMissing: the package or a part of it is absent.
    """
    try:
        yield
    except ImportError as error:
        how = f"the first lines of benchmarks/{lock} make its environment"
        raise PeerMissing(f"{package} is not installed ({error}): {how}") from error
