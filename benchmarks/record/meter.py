"""Processor seconds of a runner that answers, by what is heard of it while it goes on."""

from collections.abc import Mapping, Sequence
from typing import Any

from hardware_profiles.agent.proc import stat
from hardware_profiles.messages import Answer


class Meter:
    """Listens to one runner (``heard`` and ``enough`` of :func:`hardware_profiles.agent.supervisor.run_job`)."""

    def __init__(self) -> None:
        self._pid = 0
        self._seen = 0
        self._marks: list[tuple[int, float]] = []
        self.load_s = 0.0

    def heard(self, event: str, content: Mapping[str, Any]) -> None:
        """The runner began, or came to a phase."""
        if event == "runner":
            self._pid = int(content["pid"])
        elif content.get("phase") == "work":
            self.load_s = self._cpu_s()

    def enough(self, answers: Sequence[Answer]) -> bool:
        """A chunk of answers came; never enough."""
        self._seen += len(answers)
        self._marks.append((self._seen, self._cpu_s()))
        return False

    def item_s(self, items: int) -> float:
        """Seconds of one answer: the mean over the chunks that hold the first ``items`` of them."""
        seen, at_s = next(mark for mark in self._marks if mark[0] >= items)
        return (at_s - self.load_s) / seen

    def _cpu_s(self) -> float:
        found = stat(self._pid)
        return found.cpu_s if found else 0.0
