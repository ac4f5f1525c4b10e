"""Keeps the machine quiet while something on it is measured: work runs in parallel, a measurement runs alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Gate:
    """A readers-writer lock that prefers the writer: many may work at once, none while one measures.

    Work is taken in pieces of at most one stage, so a measurement waits for the pieces that run, not for whole trials.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._working = 0
        self._measuring = False
        self._waiting = 0

    @contextmanager
    def work(self) -> Iterator[None]:
        """Hold while using a core; waits while a measurement runs or is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: not self._measuring and not self._waiting)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold while measuring; waits until nobody works or measures."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._measuring and not self._working)
            self._waiting -= 1
            self._measuring = True
        try:
            yield
        finally:
            with self._changed:
                self._measuring = False
                self._changed.notify_all()
