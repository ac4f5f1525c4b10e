import io
import json
from typing import ClassVar

import pytest

from hardware_profiles.agent.runner import Events, first_size, next_size, warm_up
from hardware_profiles.agent.verdicts import scatter
from hardware_profiles.messages import Timing


class Paced:
    """A session whose first-token times follow a list, then stay at the last."""

    properties: ClassVar[dict[str, str]] = {}

    def __init__(self, times: list[float]) -> None:
        self.times = times

    def answer(self, question: object) -> Timing:
        value = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return timing(value)


def timing(value: float, tokens: int = 1) -> Timing:
    return Timing(
        id="",
        text="",
        preprocess_ms=None,
        vision_ms=None,
        prefill_ms=None,
        ttft_ms=value,
        e2e_ms=value,
        token_ms=(value,) * tokens,
    )


def test_warm_up_ends_when_medians_agree_and_is_bounded() -> None:
    questions: list[object] = [object()]
    ticks: list[int] = []
    for times, answers in (
        ([10.0], 10),
        ([30.0] * 5 + [20.0] * 5 + [10.0] * 5 + [10.2], 20),
        ([1.2**step for step in range(200)], 60),
    ):
        assert warm_up(Paced(times), questions, lambda: ticks.append(1)) == answers  # type: ignore[arg-type]
    assert len(ticks) == 10 + 20 + 60


def test_scatter_ignores_what_answer_length_explains() -> None:
    assert scatter([timing(10), timing(10), timing(20, tokens=3), timing(20, tokens=3)]) == 0
    assert scatter([timing(9), timing(11)]) == pytest.approx(0.02**0.5)
    assert scatter([timing(9)]) == 0


def test_chunks_grow_while_they_are_quick_and_shrink_to_one() -> None:
    sizes = [8]
    for _ in range(5):
        sizes.append(next_size(sizes[-1], sizes[-1] * 0.01))
    assert sizes == [8, 16, 32, 64, 64, 64]
    assert next_size(16, 5.0) == 16
    assert [next_size(size, 100.0) for size in (8, 4, 2, 1)] == [4, 2, 1, 1]
    size = 8
    for _ in range(20):
        size = next_size(size, size * 3.0)  # 3 s a question
    assert size * 3.0 <= 10


def test_the_first_chunk_is_one_question_where_answers_are_slow() -> None:
    assert first_size([timing(1000.0)] * 8) == 8
    assert first_size([timing(60_000.0)] * 8) == 1


def test_ticks_are_sent_only_into_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hardware_profiles.agent.runner.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    events = Events(stream)
    events.send("phase", phase="work")
    for now[0] in (100.2, 100.9, 101.1, 101.5, 102.3):
        events.tick()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["phase", "tick", "tick"]
